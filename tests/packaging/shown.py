"""Commands that documents show, and the real parsers of the programs that they call."""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import re
import shlex
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
from jsonargparse import ArgumentParser

from stoa.arguments import Command, parse
from stoa.cli import COMMANDS

ROOT = Path(__file__).parents[2]
MAKEFILE = (ROOT / "Makefile").read_text()
PROGRAMS = ("stoa", "deepspeed", "make", "python", "pip", "sbatch", "cluster/hostfile_launch.sh", "cluster/node.sh")
_FENCE = re.compile(r"^```(\w*)\n(.*?)^```", re.MULTILINE | re.DOTALL)
_INLINE = re.compile(r"`([^`]+)`")
_ASSIGNMENT = re.compile(r"[A-Z_0-9]+=.*")
_ENDS = {"|", "||", "&&", ";", "&", ">", ">>", "2>"}


class Shown(NamedTuple):
    """A command as a document has it: ``complete`` in a block of its own, or named in a sentence, perhaps in part."""

    words: tuple[str, ...]
    complete: bool

    @property
    def program(self) -> str:
        return self.words[0]

    def __str__(self) -> str:
        return shlex.join(self.words)


def shown(text: str) -> Iterator[Shown]:
    """The commands of a document in Markdown."""
    for language, block in _FENCE.findall(text):
        lines = re.sub(r"\\\n\s*", " ", block).splitlines() if language in ("", "sh", "bash") else []
        if any(line.startswith("$ ") for line in lines):
            lines = [line.removeprefix("$ ") for line in lines if line.startswith("$ ")]
        for line in lines:
            yield from _command(line, complete=True)
    for code in _INLINE.findall(_FENCE.sub("", text)):
        yield from _command(" ".join(code.split()), complete=False)


def _command(line: str, *, complete: bool) -> Iterator[Shown]:
    if not re.match(r"([A-Z_0-9]+=\S+ )*(\.venv/bin/)?([\w./-]+)( |$)", line):
        return
    try:
        words = shlex.split(line, comments=True)
    except ValueError:  # an apostrophe of what a program prints
        return
    while words and _ASSIGNMENT.fullmatch(words[0]):
        words.pop(0)
    if not words or (program := words[0].removeprefix(".venv/bin/")) not in PROGRAMS:
        return
    end = next((n for n, word in enumerate(words) if word in _ENDS), len(words))
    yield Shown((program, *words[1:end]), complete and "..." not in words)


def check(command: Shown) -> None:
    """Raises what the program's own parser does."""
    program, *words = command.words
    if program == "stoa":
        check_stoa(words, command.complete)
    elif program == "deepspeed":
        _check_deepspeed(words, command.complete)
    elif program == "make":
        _check_make(words)
    elif program == "python":
        _check_python(words, command.complete)
    elif program == "pip":
        _check_pip(words)
    else:  # a script of cluster/, whose arguments are those of train.py
        script = words[0] if program == "sbatch" else program
        assert (ROOT / script).is_file(), script
        check_stoa(["train", *words], complete=False)


def check_stoa(words: list[str], complete: bool) -> None:
    """A command of ``stoa``: of one that is named in part its options exist."""
    name = next((" ".join(words[:n]) for n in (2, 1) if " ".join(words[:n]) in COMMANDS), None)
    if name is None:
        group = bool(words) and any(command.startswith(f"{words[0]} ") for command in COMMANDS)
        assert not complete and (group or not words or words[0] in ("COMMAND", "--help", "--version")), words
        return
    module = importlib.import_module(COMMANDS[name])
    parser = ArgumentParser(exit_on_error=False, allow_abbrev=False)
    module.add_arguments(parser)
    words = words[len(name.split()) :]
    if complete:
        parse(parser, words, getattr(module, "COMMAND", Command()))
        return
    options = {option for action in parser._actions for option in action.option_strings}
    unknown = [word for word in words if word.startswith("--") and word.partition("=")[0] not in options]
    assert unknown == [], f"stoa {name} has no {unknown}"


def _check_deepspeed(words: list[str], complete: bool) -> None:
    if not words and not complete:
        return
    from deepspeed.launcher import runner

    launched = runner.parse_args([word for word in words if word != "..."])
    script, arguments = launched.user_script, launched.user_args
    if launched.module:
        assert script == "stoa.cli", script
        check_stoa(arguments, complete)
    else:
        _check_script(script, arguments, complete)


def _check_script(script: str, arguments: list[str], complete: bool) -> None:
    assert (ROOT / script).is_file(), script
    if script == "train.py":
        check_stoa(["train", *arguments], complete)
    elif script.startswith("benchmarks/"):
        _check_benchmark(script, arguments)
    else:
        assert arguments == [], f"{script} takes no arguments"


class _Parsed(Exception):
    """The parser of a benchmark has taken its arguments."""


def _check_benchmark(script: str, arguments: list[str]) -> None:
    def parsed(self: argparse.ArgumentParser, *_: object) -> None:
        original(self, arguments)
        raise _Parsed

    original = argparse.ArgumentParser.parse_args
    spec = importlib.util.spec_from_file_location(Path(script).stem, ROOT / script)
    with pytest.MonkeyPatch.context() as patch, pytest.raises(_Parsed):
        patch.syspath_prepend(ROOT / "benchmarks")
        module = importlib.util.module_from_spec(spec)
        patch.setitem(sys.modules, spec.name, module)
        spec.loader.exec_module(module)
        patch.setattr(argparse.ArgumentParser, "parse_args", parsed)
        module.main()


def _check_make(words: list[str]) -> None:
    targets = set(re.findall(r"^([\w-]+):", MAKEFILE, re.MULTILINE))
    for word in words:
        if _ASSIGNMENT.fullmatch(word):
            assert re.search(rf"^{word.partition('=')[0]} [?:]?=", MAKEFILE, re.MULTILINE), word
        else:
            assert word in targets, word


def _check_python(words: list[str], complete: bool) -> None:
    if words[:1] == ["-c"]:
        compile(words[1], "-c", "exec")
    elif words[:2] == ["-m", "stoa.cli"]:
        check_stoa(words[2:], complete)
    elif words[:1] == ["-m"]:
        assert importlib.util.find_spec(words[1]) is not None, words[1]
        if words[1:3] == ["spacy", "download"]:
            from spacy.cli._util import app
            from typer.main import get_command

            download = get_command(app).get_command(None, "download")
            download.make_context("download", words[3:])
    elif words:
        _check_script(words[0], words[1:], complete)


def _check_pip(words: list[str]) -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    for word in words:
        for named in re.findall(r"^\.\[([\w,-]+)\]$", word):
            assert set(named.split(",")) <= extras.keys(), named
