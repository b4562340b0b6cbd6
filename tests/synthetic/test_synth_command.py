from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from stoa.cli import main

_SMALL = ["--num_train=2", "--num_val=1", "--num_test=1", "--num_galleries=0", "--size=32", "--seconds=1", "--fps=4"]


def test_synth_writes_a_data_set_and_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["synth", "--out", str(tmp_path / "set"), *_SMALL]) == 0
    assert "4 clips of 4 frames" in capsys.readouterr().out
    assert (tmp_path / "set" / "synth.json").is_file()
    assert main(["synth", "--out", str(tmp_path / "set"), *_SMALL]) == 0
    assert "nothing to do" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--size", "33"], "size is 33"),
        (["--workers", "0"], "workers is 0"),
        (["--fps", "many"], "fps"),
        (["--num_trains", "3"], "did you mean --num_train?"),
    ],
)
def test_mistakes_are_told_in_one_line(
    options: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["synth", "--out", str(tmp_path / "set"), *_SMALL, *options]) == 2
    error = capsys.readouterr().err
    assert error.startswith("stoa synth: error: ") and error.count("\n") == 1 and message in error
    assert not (tmp_path / "set").exists()


def test_a_missing_folder_option_is_told_in_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["synth"]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and "out" in error


@pytest.mark.parametrize(("name", "hint"), [("sinth", "did you mean 'synth'?"), ("qqq", "commands are: ")])
def test_an_unknown_command_is_told_in_one_line(name: str, hint: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([name]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and hint in error


def test_help_lists_the_commands(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 0
    assert "synth" in capsys.readouterr().out


def test_it_runs_as_a_module() -> None:
    run = subprocess.run(
        [sys.executable, "-m", "stoa.cli", "synth", "--size", "1"], capture_output=True, text=True, check=False
    )
    assert run.returncode == 2 and run.stderr.count("\n") == 1 and "Traceback" not in run.stderr
