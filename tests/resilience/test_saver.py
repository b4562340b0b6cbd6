"""Saving in the background, by the clock, and on disks that refuse."""

import pytest
from launch import WORKER, checkpoints, finish
from test_resume import assert_same_run, kill_when

from stoa.endings import Status
from stoa.training.metrics import read_metrics

BACKGROUND = ("--training.save_in_background", "true")


def content(run, step):
    folder = run / "checkpoints" / f"step-{step:08d}"
    names = ("model.safetensors", "states/rank-00000.safetensors", "states/engine.json")
    return [(folder / name).read_bytes() for name in names]


@pytest.mark.dist
def test_what_is_written_in_the_background_is_of_the_step_that_it_was_taken_at(start, tmp_path):
    plain, background = tmp_path / "plain", tmp_path / "background"
    finish(start(plain))
    slow = (WORKER, "slow_disk", "7")  # behind the 5 that ended before it
    out, _ = finish(start(background, *BACKGROUND, program=slow))
    assert out.index("step 7/10") < out.index("step-00000005\n")  # which was said when it was written
    for step in (5, 10):
        assert content(background, step) == content(plain, step)


@pytest.mark.slow
@pytest.mark.dist
def test_a_run_that_is_killed_while_it_saves_in_the_background_goes_on(start, tmp_path):
    plain, killed = tmp_path / "plain", tmp_path / "killed"
    finish(start(plain, processes=2))
    process = start(killed, *BACKGROUND, processes=2)
    kill_when(process, killed / "checkpoints" / "step-00000005")
    finish(start(killed, *BACKGROUND, processes=2))
    assert_same_run(plain, killed)


@pytest.mark.dist
@pytest.mark.parametrize("background", [pytest.param((), marks=pytest.mark.slow), BACKGROUND])
def test_a_training_goes_on_without_a_checkpoint_but_the_last(start, tmp_path, background):
    run = tmp_path / "run"
    arguments = ("--training.save_every", "2", "--training.on_save_failure", "go_on", *background)
    out, err = finish(start(run, *arguments, program=(WORKER, "disk", "3")), code=Status.DISK_FULL)
    assert "cannot be written: File too large" in out
    assert "the last good checkpoint is" in out and "; the training goes on (training.on_save_failure)" in out
    assert "cannot be written: File too large" in err  # the last one
    assert checkpoints(run) == ["step-00000002"]
    assert not list((run / "checkpoints").glob("*.tmp"))
    assert [record["step"] for record in read_metrics(run / "metrics.jsonl")] == list(range(1, 11))


@pytest.mark.dist
def test_checkpoints_by_the_clock(start, tmp_path):
    run = tmp_path / "run"
    arguments = (
        "--training.save_every",
        "100",
        "--training.save_minutes",
        "0.0001",
        "--training.keep_checkpoints",
        "9",
    )
    finish(start(run, *arguments, "--training.max_steps", "4"))
    assert checkpoints(run) == [f"step-{step:08d}" for step in range(1, 5)]
