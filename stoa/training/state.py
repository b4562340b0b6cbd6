"""Facts about a run that are stored with its checkpoints."""

from __future__ import annotations

import importlib.metadata
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from stoa.processor import processor_name

_LIBRARIES = ("stoa", "torch", "torchvision", "deepspeed", "open_clip_torch", "numpy", "av", "decord")


def versions() -> dict[str, str]:
    """Versions of Python and of the libraries that decide numbers."""
    found = {"python": sys.version.split()[0]}
    for name in _LIBRARIES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def commit() -> str:
    """Commit of the source tree, with ``+changes`` when it is not clean; ``unknown`` outside a checkout."""
    folder = Path(__file__).parent
    try:
        head = subprocess.run(
            ["git", "-C", str(folder), "rev-parse", "HEAD"], capture_output=True, text=True, check=True
        )
        status = subprocess.run(
            ["git", "-C", str(folder), "status", "--porcelain"], capture_output=True, text=True, check=True
        )
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return head.stdout.strip() + ("+changes" if status.stdout.strip() else "")


def hardware(device: str) -> dict[str, Any]:
    """What a process runs on.

    Args:
        device: that it trains on: the name that a GPU's driver gives it, or ``cpu``.
    """
    facts = {"device": device, "processor": processor_name(), "cores": len(os.sched_getaffinity(0))}
    return facts | {"memory_gib": round(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**30, 1)}


def run_facts(
    config: dict[str, Any], architecture: dict[str, Any], ds_config: dict[str, Any], device: str
) -> dict[str, Any]:
    """What ``run.json`` holds beside the step: enough to build the model again and to say what made it.

    Args:
        config, architecture, ds_config: of the run.
        device: as for :func:`hardware`.
    """
    return {
        "config": config,
        "architecture": architecture,
        "deepspeed_config": ds_config,
        "versions": versions(),
        "commit": commit(),
        "hardware": hardware(device),
    }
