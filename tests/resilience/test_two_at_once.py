"""Two trainings of one folder: the second is refused, the first ends with the bits of an undisturbed run."""

import os
import re
import signal
from pathlib import Path

import pytest
from launch import WORKER, finish
from test_resume import assert_same_run

from stoa.cli import main
from stoa.endings import Status


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


@pytest.mark.dist
def test_the_second_is_refused_before_it_touches_anything(start, tmp_path):
    run = tmp_path / "run"
    first = start(run)
    next(line for line in first.lines() if line.startswith("step 6/"))
    first.signal(signal.SIGSTOP)
    before = contents(run)
    _, err = finish(start(run, "--training.seed", "1"), code=2)
    assert contents(run) == before
    assert f"train.py: error: {run} is being written by process {first.pid} on " in err
    assert err.endswith(" (train.py); wait for it, or choose another training.output_dir\n")
    assert "rank" not in err and "DeepSpeed" not in err
    first.kill()
    out, _ = finish(start(run))  # the lock is free at once
    assert "at step 5" in out
    assert not (run / ".stoa.lock").exists()


@pytest.mark.slow
@pytest.mark.dist
@pytest.mark.parametrize("processes", [1, 2])
def test_the_first_ends_as_if_alone(start, tmp_path, processes):
    """Whatever others try meanwhile: trainings of one and of two processes, and an export."""
    straight, run = tmp_path / "straight", tmp_path / "run"
    finish(start(straight, processes=processes))
    first = start(run, processes=processes)
    next(line for line in first.lines() if line.startswith("step 6/"))
    stopped = [first.pid, *(child.pid for child in first.children())]
    for pid in stopped:
        os.kill(pid, signal.SIGSTOP)
    _, err = finish(start(run), code=2)
    assert "is being written by process" in err
    several = start(run, processes=2)
    several.wait()
    assert several.code != 0
    for rank in (0, 1):
        assert f"train.py: rank {rank}: error: {run} is being written by process" in several.output[1]
    assert main(["export", "--run", str(run), "--out", str(run)]) == 2
    for pid in stopped:
        os.kill(pid, signal.SIGCONT)
    finish(first)
    assert_same_run(straight, run)


@pytest.mark.dist
def test_a_full_disk_at_a_checkpoint_leaves_the_last_good_one(start, tmp_path):
    """A part of what a checkpoint takes may be written."""
    run = tmp_path / "run"
    _, err = finish(start(run, program=(WORKER, "disk", "6")), code=Status.DISK_FULL)
    assert re.search(
        rf"train.py: error: {run / 'checkpoints' / 'step-00000010'}\S* cannot be written: File too large", err
    )
    assert err.endswith(f"; the last good checkpoint is {run / 'checkpoints' / 'step-00000005'}\n")
    assert "Traceback" not in err
    assert {path.name for path in (run / "checkpoints").glob("*step*")} == {"step-00000005"}
