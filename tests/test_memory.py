"""Page faults of tensors that come and go, counted by the system in a process of their own."""

from __future__ import annotations

import os
import platform
import subprocess
import sys

import pytest

from stoa.memory import KEEP_FREED_MEMORY

pytestmark = pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the C library is not glibc")

FAULTS = """
import ctypes, resource, torch
ctypes.CDLL(None).prctl(41, 1, 0, 0, 0)  # PR_SET_THP_DISABLE: a huge page would be one fault
from stoa.memory import keep_freed_memory
{prepare}
def faults():
    for size in (3_000_000, 20_000_000, 9_000_000):
        torch.ones(size)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt
before = max(faults() for _ in range(5))  # until it has what it needs
print(max(faults() for _ in range(10)) - before)
"""
JOINED = """
import tempfile
from stoa.run import joined
from stoa.training.config import TrainingConfig
run = joined(TrainingConfig(output_dir=tempfile.mkdtemp()), "ds_configs/demo.json")
run.__enter__()
"""


def faults(prepare: str, **environment: str) -> float:
    others = (*KEEP_FREED_MEMORY, "GLIBC_TUNABLES", "LD_PRELOAD")
    plain = {name: value for name, value in os.environ.items() if name not in others}
    ran = subprocess.run(
        [sys.executable, "-c", FAULTS.format(prepare=prepare)],
        env={**plain, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", **environment},
        capture_output=True,
        text=True,
        check=True,
    )
    return float(ran.stdout.splitlines()[-1])


def test_memory_that_was_freed_is_used_again():
    plain = faults("")
    assert plain > 10_000
    assert faults("keep_freed_memory()") < plain / 100


def test_training_on_a_cpu_keeps_it():
    assert faults(JOINED) < 1_000


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("MALLOC_TRIM_THRESHOLD_", "131072"),
        ("MALLOC_MMAP_THRESHOLD_", "131072"),
        ("GLIBC_TUNABLES", "glibc.malloc.mmap_threshold=131072"),
    ],
)
def test_what_the_user_has_set_stays(name, value):
    assert faults("keep_freed_memory()", **{name: value}) > 10_000
