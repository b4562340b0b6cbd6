"""Page faults of tensors that come and go, counted by the system in a process of their own."""

from __future__ import annotations

import os
import platform
import subprocess
import sys

import pytest

pytestmark = pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the C library is not glibc")

SCRIPT = """
import resource, sys, torch
from stoa.training.allocator import keep_freed_memory
if sys.argv[1] == "keep":
    keep_freed_memory()
def faults():
    for size in (3_000_000, 20_000_000, 9_000_000):
        torch.ones(size)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt
before = max(faults() for _ in range(5))  # until it has what it needs
print(max(faults() for _ in range(10)) - before)
"""


def faults(how: str, **environment: str) -> float:
    ran = subprocess.run(
        [sys.executable, "-c", SCRIPT, how],
        env={**os.environ, "OMP_NUM_THREADS": "1", **environment},
        capture_output=True,
        text=True,
        check=True,
    )
    return float(ran.stdout)


def test_memory_that_was_freed_is_used_again():
    assert faults("keep") < faults("as it is") / 100


def test_what_the_user_has_set_stays():
    assert faults("keep", MALLOC_TRIM_THRESHOLD_="131072") > faults("as it is") / 2
