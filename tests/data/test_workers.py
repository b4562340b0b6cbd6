"""How many loader processes a rank has where none are asked for."""

import os

import pytest

from stoa.data.config import DataConfig
from stoa.data.workers import cores_of_rank, loader_processes


@pytest.fixture
def sixteen_cores(monkeypatch, tmp_path):
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(range(16)))
    return tmp_path / "cpu.max"


@pytest.mark.parametrize(
    ("quota", "processes", "cores"),
    [
        (None, "", 16),
        ("max 100000", "4", 4),
        ("350000 100000", "", 4),  # of a container with three and a half
        ("3200000 100000", "8", 2),
        ("50000 100000", "", 1),
        ("nonsense", "64", 1),
    ],
)
def test_cores_are_those_that_may_be_used(sixteen_cores, quota, processes, cores):
    if quota is not None:
        sixteen_cores.write_text(quota + "\n")
    assert cores_of_rank({"LOCAL_WORLD_SIZE": processes}, sixteen_cores) == cores


@pytest.mark.parametrize(("cores", "processes"), [(1, 1), (2, 1), (3, 2), (9, 8), (64, 8)])
def test_a_core_is_left_to_training(cores, processes):
    assert loader_processes(cores) == processes


def test_what_is_asked_for_is_taken():
    assert [DataConfig(num_workers=number).loader_processes for number in (0, 5)] == [0, 5]
    assert DataConfig().loader_processes == loader_processes(cores_of_rank(os.environ))
