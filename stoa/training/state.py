"""Facts about a run that are stored with its checkpoints."""

from __future__ import annotations

import importlib.metadata
import subprocess
import sys
from pathlib import Path
from typing import Any

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


def run_facts(config: dict[str, Any], architecture: dict[str, Any], ds_config: dict[str, Any]) -> dict[str, Any]:
    """What ``run.json`` holds beside the step: enough to build the model again and to say what made it."""
    return {
        "config": config,
        "architecture": architecture,
        "deepspeed_config": ds_config,
        "versions": versions(),
        "commit": commit(),
    }
