"""All processes of a run together: whether they are alike, and how fast they reach each other."""

from __future__ import annotations

import hashlib
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import torch

from stoa.doctor.findings import Finding
from stoa.objectives.gather import of_all_ranks, seconds_of_all_reduce, world_size
from stoa.training.processes import difference
from stoa.training.state import versions

_MIB, _TIMES = 64, 5
_MOST_SKEW_SECONDS = 1.0


def compare(device: torch.device, manifest: Path | None) -> list[Finding]:
    """All ranks: findings, the same on each.

    Args:
        device: of this process.
        manifest: whose content has to be the same everywhere; none is not compared.
    """
    found = [_alike("versions of all", versions(), "install the same everywhere"), *_data(manifest), _clocks()]
    return [*found, _bandwidth(device)]


def _alike(name: str, own: dict[str, str], remedy: str) -> Finding:
    hosts = of_all_ranks((socket.gethostname(), own))
    differs = difference(hosts)
    if differs is not None:
        return Finding(name, "bad", differs, remedy)
    return Finding(
        name, "good", f"the same on {len({host for host, _ in hosts})} machine(s), {world_size()} process(es)"
    )


def _data(manifest: Path | None) -> Iterator[Finding]:
    if manifest is None:
        return
    try:
        told = hashlib.sha256(manifest.read_bytes()).hexdigest()[:12]
    except OSError as error:
        told = f"not there ({error.strerror})"
    yield _alike("data of all", {str(manifest): told}, "put the same file there on every machine")


def _clocks() -> Finding:
    of_all_ranks(None)  # so that all look at about the same time
    clocks = of_all_ranks(time.time())
    skew = max(clocks) - min(clocks)
    good = skew <= _MOST_SKEW_SECONDS
    return Finding("clocks", "good" if good else "bad", f"{skew:.3f} s apart", "" if good else "run an NTP service")


def _bandwidth(device: torch.device) -> Finding:
    world, size = world_size(), _MIB * 2**20
    seconds = seconds_of_all_reduce(torch.zeros(size // 4, device=device), _TIMES)
    rate = 2 * (world - 1) / world * size / seconds / 1e9
    return Finding("all-reduce", "good", f"{_MIB} MiB in {1e3 * seconds:.1f} ms: {rate:.2f} GB/s by each process")
