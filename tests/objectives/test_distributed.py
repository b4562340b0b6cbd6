"""Two processes compute what one computes."""

from pathlib import Path

import pytest
import torch
from launch import Program, finish, free_port

from stoa.objectives.config import PRETRAINING_LOSSES

WORKER = Path(__file__).parent / "distributed_worker.py"


def run(processes: int, way: str, folder: Path) -> dict:
    out = folder / f"{processes}.pt"
    shared = {"WORLD_SIZE": str(processes), "MASTER_PORT": str(free_port())}
    started = [
        Program([str(WORKER), str(out), way], folder, RANK=str(rank), LOCAL_RANK=str(rank), **shared)
        for rank in range(processes)
    ]
    for program in started:
        finish(program)
    return torch.load(out, weights_only=True)


@pytest.mark.dist
@pytest.mark.parametrize(
    ("way", "tolerance"),
    [
        pytest.param("deepspeed", 1e-5, marks=pytest.mark.slow),
        ("fp64", 1e-10),
        pytest.param("options", 1e-10, marks=pytest.mark.slow),
    ],
)
def test_losses_and_gradients_do_not_depend_on_the_number_of_processes(tmp_path, way, tolerance):
    one, two = (run(n, way, tmp_path) for n in (1, 2))
    assert set(PRETRAINING_LOSSES) < one["loss"].keys()
    for name, value in one["loss"].items():
        assert two["loss"][name] == pytest.approx(value, rel=tolerance), name
    whole = torch.stack([g.double().norm() for g in one["grad"].values()]).norm()
    compared = 0
    for name, expected in one["grad"].items():
        norm = expected.double().norm()
        if norm < 1e-6 * whole:
            continue
        difference = (two["grad"][name].double() - expected.double()).norm() / norm
        assert difference < tolerance, f"{name}: {difference:.1e}"
        compared += 1
    assert "model.clip.logit_scale" in one["grad"]
    assert one["grad"]["model.clip.logit_scale"].norm() > 1e-6 * whole
    assert compared > 0.9 * len(one["grad"])
