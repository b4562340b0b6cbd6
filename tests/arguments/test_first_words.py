"""What a command says of itself, and of a mistake in its options, comes without what it would compute with."""

import importlib
import shlex
import subprocess
import sys

import pytest
from jsonargparse import ArgumentParser

from stoa.arguments import Command, parse
from stoa.cli import COMMANDS, main

SAY = """
import sys
from stoa.cli import COMMANDS, main
for command in COMMANDS:
    print(f"# {command}")
    try:
        status = main([*command.split(), sys.argv[1]])
    except SystemExit as error:
        status = error.code
    heavy = sorted({"torch", "deepspeed", "open_clip", "matplotlib", "spacy", "ray"} & sys.modules.keys())
    assert status in (0, None, 2), status
    assert not heavy, (command, heavy)
"""


@pytest.mark.parametrize("option", ["--help", "--no_such_option"])
def test_torch_is_not_imported(option):
    said = subprocess.run([sys.executable, "-c", SAY, option], capture_output=True, text=True)
    assert said.returncode == 0, said.stderr
    if option == "--help":
        told = dict(part.split("\n", 1) for part in said.stdout.removeprefix("# ").split("\n# "))
        assert told.keys() == COMMANDS.keys()
        assert all(
            text.startswith(f"usage: stoa {command}") and "example: stoa" in text for command, text in told.items()
        )
    else:
        assert said.stderr.count("unknown option --no_such_option") == len(COMMANDS)


def test_the_overview_says_what_each_is_for(capsys):
    assert main(["--help"]) == 0
    lines = capsys.readouterr().out.splitlines()
    said = {line[2:18].strip(): line[19:] for line in lines if line.startswith("  ")}
    assert said.keys() == COMMANDS.keys()
    assert all(30 < len(line) < 130 and line[-1] in ".?" for line in said.values()), said


@pytest.mark.parametrize("command", COMMANDS)
def test_the_example_of_a_command_is_understood(command, repo_root, monkeypatch):
    monkeypatch.chdir(repo_root)
    module = importlib.import_module(COMMANDS[command])
    parser = ArgumentParser(exit_on_error=False, allow_abbrev=False)
    module.add_arguments(parser)
    program, *words = shlex.split(module.EXAMPLE)
    named = command.split()
    assert [program, *words[: len(named)]] == ["stoa", *named]
    parse(parser, words[len(named) :], getattr(module, "COMMAND", Command()))
