"""How many loader processes a rank can have."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from pathlib import Path

_MOST = 8  # on frame packs as many as an H200 waits for; each takes memory, and more make the start longer
_QUOTA = Path("/sys/fs/cgroup/cpu.max")


def cores_of_rank(environment: Mapping[str, str], quota_file: Path = _QUOTA) -> int:
    """Cores for each process of the run on this machine: those that this one may use, within a container's quota.

    Args:
        environment: says in ``LOCAL_WORLD_SIZE`` how many processes share the machine, once they have met.
        quota_file: ``cpu.max`` of the control group.
    """
    cores = len(os.sched_getaffinity(0))
    try:
        quota, period = quota_file.read_text().split()
        cores = min(cores, math.ceil(int(quota) / int(period)))
    except (OSError, ValueError):  # no such group, or no quota ("max")
        pass
    return max(1, cores // max(1, int(environment.get("LOCAL_WORLD_SIZE") or 1)))


def loader_processes(cores: int) -> int:
    """A core is the training process's own."""
    return min(_MOST, max(1, cores - 1))
