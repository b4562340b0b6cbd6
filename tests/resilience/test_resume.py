"""A killed run, resumed with the same command, ends as one that was never killed, bit for bit."""

import random
import signal
import time
from pathlib import Path

import pytest
import torch
from launch import finish, free_port
from safetensors.torch import load_file

from stoa.objectives.config import PRETRAINING_LOSSES
from stoa.training.metrics import read_metrics

LAST = Path("checkpoints/step-00000010")


def assert_same_run(a: Path, b: Path) -> None:
    names = ("loss", *PRETRAINING_LOSSES, "grad_norm", "learning_rate")
    records = [read_metrics(folder / "metrics.jsonl") for folder in (a, b)]
    assert [r["step"] for r in records[0]] == [r["step"] for r in records[1]] == list(range(1, 11))
    for first, second in zip(*records, strict=True):
        assert [first[n] for n in names] == [second[n] for n in names], first["step"]
    weights = [load_file(folder / LAST / "model.safetensors") for folder in (a, b)]
    assert weights[0].keys() == weights[1].keys()
    for name, tensor in weights[0].items():
        assert torch.equal(tensor, weights[1][name]), name


def kill_when(process, path: Path) -> None:
    """A process, or several."""
    deadline = time.monotonic() + 120
    processes = process if isinstance(process, list) else [process]
    while not path.exists():
        assert all(process.code is None for process in processes), [process.output for process in processes]
        assert time.monotonic() < deadline
        time.sleep(0.002)
    for process in processes:
        process.kill()


@pytest.mark.dist
def test_kill_and_resume(start, tmp_path):
    straight = tmp_path / "straight"
    finish(start(straight))
    killed = tmp_path / "killed"  # test_decoder_faults does so with loader processes
    kill_when(start(killed), killed / "checkpoints" / "step-00000005")
    assert not (killed / LAST).exists()
    out, _ = finish(start(killed))
    assert "resuming from" in out
    assert "at step 5" in out
    assert_same_run(straight, killed)

    out, _ = finish(start(straight))
    assert "already trained to step 10; nothing to do" in out

    _, err = finish(start(straight, "--model.num_frames", "2"), code=2)
    assert "is of another model: model.num_frames is 3 there and 2 here" in err

    _, err = finish(start(straight, "--training.optim.frozen_vision_blocks", "1"), code=2)
    assert "is of an optimiser of other parameters: training.optim.frozen_vision_blocks is 0 there and 1 here" in err

    _, err = finish(start(straight, "--training.optim.objects_lr", "1e-4"), code=2)
    assert "training.optim.objects_lr is 'new_lr' there and 'of its own' here" in err

    _, err = finish(start(straight, "--training.seed", "4", "--training.max_steps", "12"), code=2)
    assert "the checkpoint's data order has seed 0, this run has 4" in err


@pytest.mark.slow
@pytest.mark.dist
@pytest.mark.parametrize("stage", [0, 2])
def test_stages_of_zero_train_alike_and_resume(start, tmp_path, stage):
    one, straight, killed = tmp_path / "one", tmp_path / "straight", tmp_path / "killed"
    finish(start(one))
    finish(start(straight, stage=stage))
    kill_when(start(killed, stage=stage), killed / "checkpoints" / "step-00000005")
    finish(start(killed, stage=stage))
    records = [read_metrics(folder / "metrics.jsonl") for folder in (one, straight, killed)]
    for a, b, c in zip(*records, strict=True):
        assert b["loss"] == c["loss"] == pytest.approx(a["loss"], rel=1e-4), a["step"]

    _, err = finish(start(straight), code=2)
    assert f"is of another DeepSpeed configuration: DeepSpeed.ZeRO stage is {stage} there and 1 here" in err


@pytest.mark.slow
@pytest.mark.dist
def test_bf16_trains_as_fp32_does_and_resumes(start, tmp_path):
    full, straight, killed = tmp_path / "full", tmp_path / "straight", tmp_path / "killed"
    finish(start(full))
    finish(start(straight, bf16=True))
    kill_when(start(killed, bf16=True), killed / "checkpoints" / "step-00000005")
    finish(start(killed, bf16=True))
    assert_same_run(straight, killed)
    records = [read_metrics(folder / "metrics.jsonl") for folder in (full, straight)]
    for a, b in zip(*records, strict=True):
        assert a["loss"] != b["loss"]
        assert a["loss"] == pytest.approx(b["loss"], rel=0.02), a["step"]
    weights = load_file(straight / LAST / "model.safetensors")
    assert {tensor.dtype for tensor in weights.values()} == {torch.float32}  # those that the optimiser steps

    _, err = finish(start(straight), code=2)
    assert "is of another DeepSpeed configuration: DeepSpeed.bf16 is True there and False here" in err


@pytest.mark.dist
def test_two_processes_train_as_one_and_resume(start, tmp_path):
    """The losses of one process, and the same bits after a kill."""

    def start_both(folder):
        port = free_port()
        return [start(folder, processes=2, ranks=(rank, port)) for rank in (0, 1)]

    one, straight, killed = tmp_path / "one", tmp_path / "straight", tmp_path / "killed"
    finish(start(one))
    for process in start_both(straight):
        finish(process)
    kill_when(start_both(killed), killed / "checkpoints" / "step-00000005")
    (out, _), _ = [finish(process) for process in start_both(killed)]
    assert "at step 5" in out
    assert_same_run(straight, killed)
    records = [read_metrics(folder / "metrics.jsonl") for folder in (one, straight)]
    for a, b in zip(*records, strict=True):
        for name in ("loss", "vtc", "vtm", "mlm", "plm"):
            assert a[name] == pytest.approx(b[name], rel=1e-3), (a["step"], name)

    _, err = finish(start(straight, "--training.max_steps", "12"), code=2)
    assert "ZeRO" not in err
    assert "the checkpoint's data order has world 2, this run has 1" in err


@pytest.mark.dist
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=["ctrl-c", "sigterm"])
def test_a_signal_ends_a_run_saved(start, tmp_path, number):
    process = start(tmp_path, "--training.max_steps", "100000", "--training.save_every", "100000")
    next(line for line in process.lines() if line.startswith("step 3/"))
    process.signal(number)
    _, err = finish(process, code=130)
    (saved,) = (tmp_path / "checkpoints").glob("step-*")
    step = int(saved.name.removeprefix("step-"))
    assert f"interrupted, saved at step {step}; the same command goes on from there" in err
    assert "Traceback" not in err
    assert [r["step"] for r in read_metrics(tmp_path / "metrics.jsonl")] == list(range(1, step + 1))


@pytest.mark.slow
@pytest.mark.dist
def test_sigterm_ends_several_processes_saved(start, tmp_path):
    """torchrun sends it to a whole group, loader processes included; Slurm has sent one before."""
    endless = ("--training.max_steps", "100000", "--training.save_every", "100000", "--data.num_workers", "1")
    process = start(tmp_path, *endless, processes=2)
    next(line for line in process.lines() if line.startswith("step 3/"))
    for child in process.children():
        child.send_signal(signal.SIGTERM)
    process.signal(signal.SIGTERM)
    process.wait()
    assert process.code != 0
    _, err = process.output
    (saved,) = (tmp_path / "checkpoints").glob("step-*")
    step = int(saved.name.removeprefix("step-"))
    assert step >= 3 and f"interrupted, saved at step {step}; the same command goes on from there" in err


@pytest.mark.slow
@pytest.mark.dist
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR2], ids=["sigterm", "sigusr2"])
def test_a_signal_to_one_process_ends_all_at_the_same_step(start, tmp_path, number):
    endless = ("--training.max_steps", "100000", "--training.save_every", "100000", "--training.log_every", "100000")
    process = start(tmp_path, *endless, processes=2)
    next(line for line in process.lines() if line.startswith("step 1/"))
    ranks = [child for child in process.children() if "train.py" in " ".join(child.cmdline())]
    last = next(child for child in ranks if child.environ().get("RANK") == "1")
    last.send_signal(number)
    process.wait()
    _, err = process.output
    (saved,) = (tmp_path / "checkpoints").glob("step-*")
    step = int(saved.name.removeprefix("step-"))
    assert f"interrupted, saved at step {step}; the same command goes on from there" in err
    assert len(list((saved / "states").glob("rank-*"))) == 2


@pytest.mark.slow
@pytest.mark.dist
def test_hyper_parameters_of_a_resumed_run_are_its_own(start, tmp_path):
    """DeepSpeed's states carry those of the time."""
    finish(start(tmp_path, "--training.optim.warmup_steps", "0"))
    rates = {"--training.optim.clip_lr": "5e-5", "--training.optim.new_lr": "1e-4", "--training.max_steps": "20"}
    finish(start(tmp_path, "--training.optim.warmup_steps", "0", *(x for pair in rates.items() for x in pair)))
    records = read_metrics(tmp_path / "metrics.jsonl")
    assert records[0]["learning_rate"] == pytest.approx(1e-3)
    assert records[10]["learning_rate"] == pytest.approx(5e-5)


@pytest.mark.slow
@pytest.mark.dist
def test_killed_at_random_moments(start, tmp_path):
    """Whenever it is killed, the saves included, the same command goes on and ends alike."""
    straight, killed = tmp_path / "straight", tmp_path / "killed"
    finish(start(straight, "--training.save_every", "1"))
    rng, kills = random.Random(0), 0
    while not (killed / LAST).exists():
        before = set((killed / "checkpoints").glob("*"))
        process = start(killed, "--training.save_every", "1")
        # Every run gets at least to its first save, so it goes forward on a machine of any speed.
        while not set((killed / "checkpoints").glob("*")) - before and process.code is None:
            time.sleep(0.002)
        time.sleep(rng.uniform(0.0, 0.3))
        kills += process.code is None
        process.kill()
    finish(start(killed, "--training.save_every", "1"))
    assert kills > 2
    assert_same_run(straight, killed)
