"""A GPU whose memory runs out ends a command in a line that says what to change."""

import re

import pytest
import torch
from factories import tiny_config
from imagined_runs import imagined_once
from launch import WORKER, checkpoints, finish

from stoa.cli import main
from stoa.endings import Status
from stoa.objectives.config import ObjectivesConfig
from stoa.planning.advice import what_fits
from stoa.planning.automatic import recomputed_on
from stoa.planning.memory import memory_of, room
from stoa.training.config import TrainingConfig

USED = [*range(320, 420)]


def advice(device_bytes, clips, parts=(), **zero):
    config = {"train_micro_batch_size_per_gpu": clips, "zero_optimization": {"stage": 1, **zero}}
    given = tiny_config(), ObjectivesConfig(), TrainingConfig(), config
    return what_fits(device_bytes, *given, world=1, recomputed=parts, used_token_ids=USED)


def device_for(needed: int) -> int:
    return next(size for size in range(2**30, 2**36, 2**22) if room(size) >= needed)


@pytest.fixture(autouse=True)
def runs_are_shared(monkeypatch):
    monkeypatch.setattr("stoa.planning.advice.ImaginedRun", imagined_once)


@pytest.fixture
def needed(monkeypatch):
    """Bytes that a step takes, as the model behind the advice has it."""
    from stoa.planning import advice as module

    seen = []
    monkeypatch.setattr(module, "memory_of", lambda *given: (seen.append(memory_of(*given)), seen[-1])[1])

    def needed(clips, parts=()):
        seen.clear()
        advice(2**40, clips, parts, reduce_bucket_size=1000)
        return seen[0].total

    return needed


def test_the_least_change_that_fits_is_named(needed):
    whole, recomputed = needed(2048), needed(2048, ("towers", "fusion"))
    assert recomputed < 0.8 * whole
    said = advice(device_for((whole + recomputed) // 2), 2048, reduce_bucket_size=1000)
    assert re.search(
        r"a step of 2048 clips takes \S+ GiB of the \S+ GiB .* modelled; with model.activation_check", said
    )
    said = advice(device_for((recomputed + needed(1024, ("towers", "fusion"))) // 2), 2048, reduce_bucket_size=1000)
    assert "; 1024 clips (train_micro_batch_size_per_gpu) with model.activation_checkpointing true" in said
    said = advice(device_for(needed(512, ("towers", "fusion"))), 2048, ("towers", "fusion"), reduce_bucket_size=1000)
    assert "; 512 clips (train_micro_batch_size_per_gpu)" in said


def test_what_should_fit_and_what_never_does():
    assert "it should fit, so look whether other processes hold" in advice(2**40, 1)
    assert "not even one clip fits; ds_configs/zero3_offload_bf16.json" in advice(2**30, 1)
    assert "lower train_micro_batch_size_per_gpu 8" in advice(2**30, 8, stage=3)


def test_the_advice_is_what_auto_would_choose():
    config = {"train_micro_batch_size_per_gpu": 8, "zero_optimization": {"stage": 1, "reduce_bucket_size": 1000}}
    model = tiny_config(activation_checkpointing="auto")
    parts, _ = recomputed_on(2**40, model, ObjectivesConfig(), TrainingConfig(), config, world=1, used_token_ids=USED)
    assert parts == ()


@pytest.mark.dist
def test_a_training(start, tmp_path):
    run = tmp_path / "run"
    _, err = finish(start(run, program=(WORKER, "memory", "7")), code=Status.BAD_INPUT)
    assert "train.py: error: out of memory on a GPU of 2 GiB: a step of 8 clips takes" in err
    assert checkpoints(run) == ["step-00000005", "step-00000006"]


def test_other_commands(monkeypatch, capsys):
    def full(*_):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB.")

    monkeypatch.setattr("stoa.cli.plan.run", full)
    assert main(["plan", "--gpu", "H200"]) == Status.BAD_INPUT
    assert "stoa plan: error: out of memory on the GPU; give it less at a time (stoa eval" in capsys.readouterr().err
