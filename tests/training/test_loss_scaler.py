"""DeepSpeed's fp16 engine: infinite gradients skip a step and halve the scale; the temperature keeps its ceiling."""

import math
from pathlib import Path

import pytest
import torch
from data_sets import made_once
from launch import Program, finish

WORKER = Path(__file__).parent / "loss_scaler_worker.py"
PLANTED = {2, 3, 5}


@pytest.fixture(scope="session")
def result(tmp_path_factory) -> dict:
    """What the worker saw."""

    def make(folder):
        finish(Program([str(WORKER), str(folder / "out.pt")], folder))

    result = torch.load(made_once(tmp_path_factory, "scaler", make) / "out.pt", weights_only=True)
    assert result["fp16"]
    assert result["dtype"] == "torch.float16"
    return result


@pytest.fixture
def record(result) -> list[dict]:
    """The same, step by step."""
    return result["record"]


@pytest.mark.dist
def test_the_norm_is_that_of_gradients_without_a_scale(result):
    norms = dict(result["norms"])
    plain = norms.pop("plain")
    assert len(norms) == 7
    for way, norm in norms.items():
        assert norm == pytest.approx(plain, rel=1e-4 if way.endswith("fp32") else 0.05), way


@pytest.mark.dist
def test_planted_infinities_skip_the_step_and_halve_the_scale(record):
    assert [r["moved"] for r in record] == [step not in PLANTED for step in range(9)]
    assert [r["skipped"] for r in record] == [0, 0, 1, 2, 2, 3, 3, 3, 3]
    scales = [r["scale"] for r in record]
    for step in PLANTED:
        assert scales[step] == scales[step - 1] / 2
    assert scales[8] == 2 * scales[5]  # two good steps after the next are the window
    assert all(math.isfinite(r["loss"]) for r in record)


@pytest.mark.dist
def test_the_temperature_keeps_its_ceiling_under_zero(record):
    """The fp32 master of ZeRO overwrites a parameter clamped in place; the clamp is in the forward pass."""
    assert all(r["temperature"] == pytest.approx(100, rel=1e-3) for r in record)
    assert record[-1]["logit_scale"] != 6.0
    assert record[-1]["logit_scale"] > 5
