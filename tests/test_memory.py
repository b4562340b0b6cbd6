"""Page faults of blocks that come and go, counted by the system in a process of their own."""

from __future__ import annotations

import os
import platform
import subprocess
import sys

import pytest

from stoa.memory import KEEP_FREED_MEMORY

pytestmark = pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the C library is not glibc")

FAULTS = """
import ctypes, resource
import numpy as np
ctypes.CDLL(None).prctl(41, 1, 0, 0, 0)  # PR_SET_THP_DISABLE: a huge page would be one fault
from stoa.memory import keep_freed_memory
{prepare}
def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    blocks = [np.ones({mib} << 20, dtype=np.uint8) for _ in range({count})]
    del blocks
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
for _ in range(3):  # until it has what it needs
    faults()
print(max(faults() for _ in range(5)))
"""
JOINED = """
import tempfile
from stoa.run import joined
from stoa.training.config import TrainingConfig
run = joined(TrainingConfig(output_dir=tempfile.mkdtemp()), "ds_configs/demo.json")
run.__enter__()
"""


PAGES = 200 * 256
"""Of the 200 MiB that every round asks for."""


def faults(prepare: str, *, mib: int = 20, **environment: str) -> float:
    """Page faults of a round that asks for blocks of so many MiB and frees them."""
    others = (*KEEP_FREED_MEMORY, "GLIBC_TUNABLES", "LD_PRELOAD")
    plain = {name: value for name, value in os.environ.items() if name not in others}
    ran = subprocess.run(
        [sys.executable, "-c", FAULTS.format(prepare=prepare, mib=mib, count=200 // mib)],
        env={**plain, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", **environment},
        capture_output=True,
        text=True,
        check=True,
    )
    return float(ran.stdout.splitlines()[-1])


def test_memory_that_was_freed_is_used_again():
    assert faults("") > PAGES / 2
    assert faults("keep_freed_memory()") < PAGES / 100


def test_large_blocks_go_back_at_once():
    """A heap of them would have gaps of which the next one fits none."""
    assert faults("keep_freed_memory()", mib=40) > PAGES * 0.9


@pytest.mark.slow
def test_training_on_a_cpu_keeps_it():
    assert faults(JOINED) < PAGES / 100


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("MALLOC_TRIM_THRESHOLD_", "131072"),
        ("MALLOC_MMAP_THRESHOLD_", "131072"),
        ("GLIBC_TUNABLES", "glibc.malloc.mmap_threshold=131072"),
    ],
)
def test_what_the_user_has_set_stays(name, value):
    assert faults("keep_freed_memory()", **{name: value}) > PAGES / 2
