"""Steps are reported several at a time; what is not finite ends a run and is never saved, and what is, is not lost."""

import re

import pytest
from launch import WORKER, checkpoints, finish

from stoa.training.metrics import read_metrics


@pytest.mark.dist
def test_a_second_stage_may_begin_between_two_reports(start, tmp_path):
    run = tmp_path / "run"
    csal = ("--objectives.csal.share", "1.0", "--objectives.csal.from_step", "4")
    finish(start(run, "--training.log_every", "3", *csal))
    records = read_metrics(run / "metrics.jsonl")
    assert [r["step"] for r in records] == list(range(1, 11))
    assert ["csal_own" in r for r in records] == [False] * 4 + [True] * 6


@pytest.mark.dist
@pytest.mark.parametrize(
    ("clipping", "shown"), [(1.0, True), *(pytest.param(norm, False, marks=pytest.mark.slow) for norm in (1e6, 0.0))]
)
def test_how_often_gradients_are_clipped_is_told(start, tmp_path, clipping, shown):
    """Of the steps since the last report, by the norms of all of them, which DeepSpeed tells before it clips."""
    run = tmp_path / "run"
    out, _ = finish(start(run, "--training.log_every", "4", "--training.save_every", "10", clipping=clipping))
    records = read_metrics(run / "metrics.jsonl")
    for window in ([1], [2, 3, 4], [5, 6, 7, 8], [9, 10]):
        steps = [r for r in records if r["step"] in window]
        share = sum(r["grad_norm"] > clipping for r in steps) / len(steps)
        assert [r.get("clipped_share") for r in steps] == [share if clipping else None] * len(window)
    assert ("of steps clipped" in out) == shown


@pytest.mark.dist
@pytest.mark.parametrize(
    ("bf16", "stage", "offload"),
    [
        (True, 1, False),
        *(pytest.param(False, stage, False, marks=pytest.mark.slow) for stage in (0, 1, 3)),
        pytest.param(True, 3, False, marks=pytest.mark.slow),
        *(pytest.param(*values, marks=pytest.mark.slow) for values in ((False, 2, True), (True, 2, True))),
        pytest.param(True, 3, True, marks=pytest.mark.slow),
    ],
)
def test_an_infinite_gradient_between_two_reports_ends_a_run(start, tmp_path, bf16, stage, offload):
    run = tmp_path / "run"
    arguments = ("--training.log_every", "4", "--training.save_every", "4")
    planted = start(run, *arguments, bf16=bf16, stage=stage, offload=offload, program=(WORKER, "gradient", "6"))
    _, err = finish(planted, code=3)
    assert "train.py: error: grad_norm of step 6 is inf; lower the learning rates" in err
    assert checkpoints(run) == ["step-00000004"]
    assert [r["step"] for r in read_metrics(run / "metrics.jsonl")] == list(range(1, 7))  # at once, not at the report


@pytest.mark.dist
def test_weights_that_are_not_finite_are_not_saved(start, tmp_path):
    """Whatever has led to them: the loss and the gradients of the step were finite."""
    run = tmp_path / "run"
    _, err = finish(start(run, stage=0, program=(WORKER, "weight", "5")), code=3)
    assert re.search(r"train.py: error: weight clip\S+ is not finite after step 5; lower the learning rates", err)
    assert not checkpoints(run)


@pytest.mark.dist
def test_a_log_that_cannot_be_written_costs_no_step(start, tmp_path):
    run = tmp_path / "run"
    _, err = finish(start(run, "--training.log_every", "4", program=(WORKER, "log", "6")), code=5)
    assert "No space left on device" in err
    assert checkpoints(run) == ["step-00000005", "step-00000008"]
    out, _ = finish(start(run))
    assert "at step 8" in out
