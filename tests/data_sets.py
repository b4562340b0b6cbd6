"""Data sets that several processes of the tests share."""

import fcntl
import os
from pathlib import Path

import pytest

from stoa.synthetic import SynthConfig, build_data_set


def built_once(factory: pytest.TempPathFactory, name: str, config: SynthConfig) -> Path:
    """Moving Shapes, made by the first process that asks for it under this name."""
    root = factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        root = root.parent
    with open(root / f"{name}.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        build_data_set(config, root / name / "set", say=lambda line: None)  # one that is there stays as it is
    return root / name / "set"
