"""The ``stoa`` command: one file a subcommand, which holds no logic of its own."""

from __future__ import annotations

import ast
import difflib
import importlib
import importlib.metadata
import re
import sys
from collections.abc import Sequence
from pathlib import Path

from jsonargparse import ArgumentParser

from stoa.arguments import Command, parse
from stoa.cli._errors import end_with, foreseen
from stoa.endings import Status, call, complain
from stoa.progress import shown

COMMANDS = {
    "ablate": "stoa.cli.ablate",
    "ask": "stoa.cli.ask",
    "caption": "stoa.cli.caption",
    "ckpt convert": "stoa.cli.ckpt_convert",
    "ckpt ls": "stoa.cli.ckpt_ls",
    "ckpt prune": "stoa.cli.ckpt_prune",
    "ckpt verify": "stoa.cli.ckpt_verify",
    "completion": "stoa.cli.completion",
    "curves": "stoa.cli.curves",
    "data check": "stoa.cli.data_check",
    "detect": "stoa.cli.detect",
    "doctor": "stoa.cli.doctor",
    "evaluate": "stoa.cli.evaluate",
    "explain": "stoa.cli.explain",
    "export": "stoa.cli.export",
    "finetune": "stoa.cli.finetune",
    "index": "stoa.cli.index",
    "plan": "stoa.cli.plan",
    "prepare": "stoa.cli.prepare",
    "profile compare": "stoa.cli.profile_compare",
    "profile": "stoa.cli.profile",
    "report": "stoa.cli.report",
    "search": "stoa.cli.search",
    "serve": "stoa.cli.serve",
    "synth": "stoa.cli.synth",
    "train": "stoa.cli.train",
}
"""Module of each subcommand, imported when it is called. It has a docstring, whose first sentence says what the
command is for, an ``EXAMPLE``, ``add_arguments`` and ``run``, which may return an exit status, and perhaps a
``COMMAND``. What the command computes with is imported by ``run``, so that its help and its complaints come at
once."""


def main(argv: Sequence[str] | None = None, *, program: str | None = None) -> int:
    """Run ``stoa`` with ``argv`` (default: the process's arguments).

    Args:
        argv: a command and its options.
        program: what the user has called, for messages; ``stoa`` and the command where it is that.

    Returns:
        The exit status: that of the command where it has one, else a :class:`stoa.endings.Status`; why it is not 0 is
        told in one line on stderr.
    """
    given = list(sys.argv[1:] if argv is None else argv) or ["--help"]
    if given[0].startswith("--local_rank="):  # DeepSpeed's launcher puts it before the command
        given = [*given[1:], given[0]]
    name, *rest = given
    if name in ("-h", "--help"):
        print("\n".join(_overview()))
        return 0
    if name == "--version":
        print(f"stoa {importlib.metadata.version('stoa')}")
        return 0
    if f"{name} {next(iter(rest), '')}" in COMMANDS:
        name = f"{name} {rest.pop(0)}"
    if name not in COMMANDS:
        close = difflib.get_close_matches(f"{name} {next(iter(rest), '')}", COMMANDS, n=1, cutoff=0.7)
        close = close or difflib.get_close_matches(name, COMMANDS, n=1)
        hint = f"did you mean {close[0]!r}?" if close else f"commands are: {', '.join(COMMANDS)}"
        print(f"stoa: error: unknown command {name!r}; {hint}", file=sys.stderr)
        return Status.BAD_INPUT
    module = importlib.import_module(COMMANDS[name])
    program = program or f"stoa {name}"
    call(program)
    parser = ArgumentParser(
        prog=program,
        description=module.__doc__,
        epilog=f"example: {module.EXAMPLE}",
        exit_on_error=False,
        allow_abbrev=False,
    )
    module.add_arguments(parser)
    try:
        arguments = parse(parser, rest, getattr(module, "COMMAND", Command()))
    except ValueError as error:
        complain(program, f"error: {error}", once=True)
        return Status.BAD_INPUT
    try:
        with shown():
            status = module.run(arguments)
    except BaseException as error:
        if foreseen(error) is not None:
            return end_with(program, error)
        raise
    return status or Status.GOOD


def _overview() -> list[str]:
    """The commands, and what each is for, read from their files."""
    lines = ["usage: stoa COMMAND ...", ""]
    for name, module in COMMANDS.items():
        file = Path(__file__).with_name(f"{module.rpartition('.')[2]}.py")
        said = ast.get_docstring(ast.parse(file.read_text(encoding="utf-8"))) or ""
        lines.append(f"  {name:16} {re.split('(?<=[.?]) ', ' '.join(said.split()))[0]}")
    return [*lines, "", "'stoa COMMAND --help' lists the options of a command, with an example"]
