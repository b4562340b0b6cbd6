"""States of a training are read by any number of processes, under any stage of ZeRO, as if nothing had changed."""

import itertools

import pytest
import torch
from safetensors.torch import load_file
from test_zero import READY, ready, run

STAGES = ["zero0_fp32", *READY]
AT, STEPS = 4, 4


def config(name, ranks, **changed):
    return {**ready(name), "train_micro_batch_size_per_gpu": 6 // ranks, **changed}


def parted(tmp_path, name, ranks, **changed):
    """A training of so many steps, its states, and what it does in the steps behind them."""
    folder = tmp_path / f"{name}-{ranks}"
    folder.mkdir()
    before = {"deepspeed": config(name, ranks, **changed), "steps": AT, "write": str(folder)}
    whole = {"deepspeed": config(name, ranks, **changed), "steps": AT + STEPS}
    found = run(tmp_path, {"before": before, "whole": whole}, ranks=ranks)
    return folder, found["whole"]


def goes_on(found, whole):
    """As the training that was not parted, to rounding: another split adds in another order."""
    (told, weights), (whole_told, whole_weights) = found, whole
    assert told["losses"] == pytest.approx(whole_told["losses"][AT:], rel=1e-6)
    for name, weight in weights.items():
        torch.testing.assert_close(weight, whole_weights[name], rtol=1e-3, atol=5e-4, msg=name)


@pytest.mark.dist
@pytest.mark.parametrize(
    ("written", "ranks", "readers"),
    [
        ("pretrain", 2, [("pretrain", 1), ("zero3_fp16", 2), ("zero0_fp32", 1)]),
        pytest.param("zero3_fp16", 1, [("pretrain", 2), ("zero0_fp32", 2)], marks=pytest.mark.slow),
        pytest.param("pretrain", 1, [(name, 3) for name in STAGES], marks=pytest.mark.slow),
        *(
            pytest.param(name, 3, list(itertools.product(STAGES, (1, 2, 3))), marks=pytest.mark.slow, id=f"{name}-3")
            for name in STAGES
        ),
    ],
)
def test_other_processes_and_stages_go_on(tmp_path, written, ranks, readers):
    folder, whole = parted(tmp_path, written, ranks)
    for number in sorted({count for _, count in readers}):
        runs = {
            name: {"deepspeed": config(name, number), "steps": STEPS, "read": str(folder)}
            for name, count in readers
            if count == number
        }
        for name, found in run(tmp_path, runs, ranks=number).items():
            goes_on(found, whole)
            if (name, number) == (written, ranks):  # nothing has changed
                assert found[0]["losses"] == whole[0]["losses"][AT:]
                assert all(torch.equal(weight, whole[1][key]) for key, weight in found[1].items())


@pytest.mark.parametrize("name", [pytest.param(name, marks=pytest.mark.slow) for name in ("pretrain", "zero3_fp16")])
def test_half_precision_goes_on_with_the_bits_of_the_optimiser(tmp_path, name):
    """Whose weights, in fp32, are those that are saved."""
    folder, (told, weights) = parted(tmp_path, name, 1, bf16={"enabled": True})
    saved = load_file(folder / "model.safetensors")
    projection = saved["clip.visual.proj"]
    assert projection.dtype == torch.float32
    assert not torch.equal(projection, projection.bfloat16().float())
    again = {"deepspeed": config(name, 1, bf16={"enabled": True}), "steps": STEPS, "read": str(folder)}
    found = run(tmp_path, {"again": again}, ranks=1)["again"]
    assert found[0]["losses"] == told["losses"][AT:]
    assert all(torch.equal(weight, weights[key]) for key, weight in found[1].items())
