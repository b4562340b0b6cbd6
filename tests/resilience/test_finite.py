"""A step whose loss or gradients are not finite on one rank moves no weight on any; one that stands out is undone."""

import json

import pytest
import torch
from launch import WORKER, finish, free_port
from safetensors.torch import load_file

from stoa.data.sampler import GlobalBatchSampler
from stoa.training.metrics import read_metrics

SHORT = ("--training.max_steps", "6", "--training.save_every", "5", "--training.log_every", "100")


def start_planted(start, run, fault, step, *arguments, processes, **settings):
    port = free_port()
    ranks = [(rank, port) for rank in range(processes)] if processes > 1 else [None]
    program = (WORKER, fault, str(step))
    return [start(run, *arguments, processes=processes, ranks=at, program=program, **settings) for at in ranks]


def weights(run, step):
    return load_file(run / "checkpoints" / f"step-{step:08d}" / "model.safetensors")


CASES = [
    ("loss", 2, {"stage": 1}),
    ("gradient", 1, {"stage": 0}),
    *(
        pytest.param(fault, 2, settings, marks=pytest.mark.slow)
        for fault in ("loss", "gradient")
        for settings in (
            {"stage": 0},
            {"stage": 2},
            {"stage": 3},
            {"stage": 2, "offload": True},
            {"stage": 3, "offload": True},
            {"stage": 1, "bf16": True},
            {"stage": 2, "bf16": True},
            {"stage": 3, "bf16": True},
            {"stage": 0, "clipping": 0.0},
        )
    ),
]


@pytest.mark.dist
@pytest.mark.parametrize(("fault", "processes", "settings"), CASES)
def test_a_step_that_is_not_finite_moves_nothing(start, tmp_path, fault, processes, settings):
    run = tmp_path / "run"
    allowed = ("--training.skip_nonfinite", "1")
    (out, _), *_ = [
        finish(program)
        for program in start_planted(start, run, fault, 6, *SHORT, *allowed, processes=processes, **settings)
    ]
    assert " of step 6 is " in out and "the step is left out, 1 of the 1 that training.skip_nonfinite allows" in out
    before, behind = weights(run, 5), weights(run, 6)
    assert all(torch.equal(before[name], behind[name]) for name in before)
    records = read_metrics(run / "metrics.jsonl")
    assert [record.get("left_out") for record in records] == [None] * 5 + [1.0]


@pytest.mark.slow
@pytest.mark.dist
def test_the_default_is_to_end(start, tmp_path):
    run = tmp_path / "run"
    arguments = ("--training.log_every", "100", "--training.max_steps", "40", "--training.save_every", "2")
    for program in start_planted(start, run, "loss", 6, *arguments, processes=2):
        _, err = finish(program, code=3)
        assert "train.py: rank" in err and "error: loss of step 6 is nan; lower the learning rates" in err
    assert max(path.name for path in (run / "checkpoints").iterdir()) == "step-00000004"


@pytest.mark.dist
def test_a_loss_that_stands_out_is_undone(start, tmp_path):
    run = tmp_path / "run"
    arguments = ("--training.max_steps", "30", "--training.save_every", "10", "--training.spike_factor", "4")
    (program,) = start_planted(start, run, "spike", 25, *arguments, processes=1)
    out, _ = finish(program)
    assert "loss of step 25 is " in out and "step-00000020; the clips of steps 21 to 25 are left out" in out
    records = read_metrics(run / "metrics.jsonl")
    assert [record["step"] for record in records] == list(range(1, 31))
    assert [record.get("generation", 0) for record in records] == [0] * 20 + [1] * 10
    assert len((run / "metrics.jsonl").read_text().splitlines()) == 35
    facts = json.loads((run / "checkpoints" / "step-00000030" / "run.json").read_text())
    (excluded,) = facts["excluded"]
    assert excluded["steps"] == [21, 25]
    sampler = GlobalBatchSampler(facts["sampler"]["num_samples"], 8, rank=0, world=1, seed=0)
    sampler.advance(35)
    assert [facts["sampler"][name] for name in ("epoch", "taken")] == [sampler.epoch, sampler.taken]


@pytest.mark.slow
@pytest.mark.dist
def test_a_loss_that_stands_out_without_a_checkpoint_ends_the_run(start, tmp_path):
    arguments = ("--training.max_steps", "30", "--training.save_every", "30", "--training.spike_factor", "4")
    (program,) = start_planted(start, tmp_path / "run", "spike", 25, *arguments, processes=1)
    _, err = finish(program, code=3)
    assert "times the median of those before, and there is no checkpoint yet" in err
