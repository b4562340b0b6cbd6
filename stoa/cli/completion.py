"""A script by which the shell completes commands, their options and the words that these take."""

from __future__ import annotations

import importlib

from jsonargparse import ArgumentParser, Namespace

from stoa.arguments.completion import Shell, completion_script, options_of

EXAMPLE = "stoa completion bash"


def add_arguments(parser: ArgumentParser) -> None:
    parser.add_argument("shell", type=Shell, help="that is to complete")


def run(args: Namespace) -> None:
    from stoa.cli import COMMANDS

    options = {}
    for name, module in COMMANDS.items():
        parser = ArgumentParser(exit_on_error=False)
        importlib.import_module(module).add_arguments(parser)
        options[name] = options_of(parser)
    print(completion_script(options, args.shell), end="")
