"""The parser of every command, with what it cannot do without."""

from __future__ import annotations

import functools
import importlib

from jsonargparse import ArgumentParser, Namespace

from stoa.arguments import Command, parse
from stoa.cli import COMMANDS

REQUIRED = {
    "train": ["--deepspeed_config", "x"],
    "ablate": ["plan.yaml"],
    "curves": ["--run", "r"],
    "data check": ["data"],
    "detect": ["m", "--out", "o"],
    "evaluate": ["--manifest", "m"],
    "explain": [],
    "export": ["--run", "r", "--out", "o"],
    "finetune": ["--deepspeed_config", "x", "--run", "r", "--task", "retrieval", "--data.manifest", "m"],
    "prepare": ["--annotations", "a", "--out", "o", "--videos", "v"],
    "synth": ["--out", "o"],
}


@functools.cache
def parser_of(name: str) -> tuple[ArgumentParser, Command]:
    module = importlib.import_module(COMMANDS[name])
    parser = ArgumentParser(prog=f"stoa {name}", exit_on_error=False, allow_abbrev=False)
    module.add_arguments(parser)
    return parser, getattr(module, "COMMAND", Command())


def parsed(name: str, *arguments: str, required: bool = True) -> Namespace:
    parser, command = parser_of(name)
    return parse(parser, [*(REQUIRED[name] if required else ()), *arguments], command)
