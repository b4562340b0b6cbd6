"""What a shell completes, asked of a real bash."""

import importlib
import os
import pty
import re
import shutil
import subprocess
import sys

import pytest
from jsonargparse import ArgumentParser

from stoa.arguments.completion import options_of
from stoa.cli import COMMANDS, main

ASK = """
source "$1"; shift
while read -r -a COMP_WORDS; do
  [[ "${COMP_WORDS[-1]}" == "_" ]] && COMP_WORDS[-1]=""
  COMP_CWORD=$((${#COMP_WORDS[@]} - 1)) COMPREPLY=()
  _stoa
  echo "${COMPREPLY[*]}"
done
"""


@pytest.fixture(scope="module")
def script(tmp_path_factory):
    out = subprocess.run([sys.executable, "-m", "stoa.cli", "completion", "bash"], capture_output=True, text=True)
    assert (out.returncode, out.stderr) == (0, "")
    path = tmp_path_factory.mktemp("completion") / "stoa"
    path.write_text(out.stdout)
    return path


def ask(script, lines):
    """What is offered for the last word of each line; ``_`` is an empty one. bash splits at the equals sign."""
    words = "".join(f"{line}\n" for line in lines)
    said = subprocess.run(["bash", "-c", ASK, "bash", script], input=words, capture_output=True, text=True, check=True)
    assert said.stderr == ""
    return [offered.split() for offered in said.stdout.split("\n")[:-1]]


@pytest.mark.parametrize(
    "line, offered",
    [
        ("stoa ev", ["evaluate"]),
        ("stoa p", ["plan", "prepare", "profile"]),
        ("stoa ckpt _", ["convert", "ls", "prune", "verify"]),
        ("stoa profile c", ["compare"]),
        ("stoa ckpt prune --k", ["--keep"]),
        ("stoa evaluate --ma", ["--max_tokens", "--manifest"]),
        ("stoa evaluate --manifest a.jsonl --task r", ["retrieval"]),
        ("stoa evaluate --task = _", ["retrieval", "captioning", "answering", "multiple_choice", "null"]),
        ("stoa evaluate --task =", ["retrieval", "captioning", "answering", "multiple_choice", "null"]),
        ("stoa train --training.on_save_failure = g", ["go_on"]),
        ("stoa train --training.optim.cl", ["--training.optim.clip_lr"]),
        ("stoa completion _", ["bash", "zsh"]),
        ("stoa evaluate --manifest d", []),  # names of files
        ("stoa evaluate _", []),
        ("stoa nothing --x", []),
    ],
)
def test_what_is_offered(script, line, offered):
    assert ask(script, [line]) == [offered]


def test_every_option_and_choice_of_every_command(script):
    expected = {}
    for name, module in COMMANDS.items():
        parser = ArgumentParser(exit_on_error=False)
        importlib.import_module(module).add_arguments(parser)
        options = options_of(parser)
        taken = {action.dest for action in parser._actions if not action.option_strings}
        leaves = vars(parser.get_defaults().as_flat()).keys() - taken
        assert leaves <= {option.removeprefix("--").replace("-", "_") for option in options}
        expected[f"stoa {name} --"] = [option for option in options if option]
        expected |= {f"stoa {name} {option} _": words for option, words in options.items() if option}
    assert len(expected) > 300
    assert dict(zip(expected, ask(script, expected), strict=True)) == expected


def typed(script, keys):
    """What an interactive bash that can start no other program shows of a line, once completion has come to rest."""
    leader, follower = pty.openpty()
    environment = {"PATH": "", "TERM": "dumb", "INPUTRC": "/dev/null", "PS1": "> "}
    bash = subprocess.Popen(
        [shutil.which("bash"), "--norc", "--noprofile", "-i"],
        stdin=follower,
        stdout=follower,
        stderr=follower,
        env=environment,
        start_new_session=True,
    )
    os.close(follower)
    try:
        shown = b""
        os.write(leader, f"source {script}; echo re''ady\n".encode())
        while b"ready\r\n" not in shown or not shown.rstrip(b"\x1b[?2004h").endswith(b"> "):
            shown += os.read(leader, 4096)
        shown = b""
        os.write(leader, keys.encode())
        while b"#" not in shown:
            shown += os.read(leader, 4096)
        return re.sub(r"\x07|\x1b\[\?2004[hl]\r?", "", shown.decode())
    finally:
        bash.kill()
        bash.wait()
        os.close(leader)


def test_a_person_types(script):
    assert typed(script, "stoa ev\t--max\t8 --view bl\t#") == "stoa evaluate --max_tokens 8 --view blind #"


def test_zsh_has_the_same(script, capsys):
    assert main(["completion", "zsh"]) == 0
    said = capsys.readouterr().out
    assert said.endswith(script.read_text()) and "bashcompinit" in said


def test_another_shell_is_refused(capsys):
    assert main(["completion", "dash"]) == 2
    assert "'dash' is none of bash, zsh" in capsys.readouterr().err
