"""Folders that several processes of the tests share."""

import fcntl
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from stoa.synthetic import SynthConfig, build_data_set


def made_once(factory: pytest.TempPathFactory, name: str, make: Callable[[Path], object]) -> Path:
    """A folder to read alone, filled by the first process that asks for it under this name; the others wait."""
    root = factory.getbasetemp()
    if root.name == f"popen-{os.environ.get('PYTEST_XDIST_WORKER')}":  # of one of the processes
        root = root.parent
    folder = root / name
    with open(root / f"{name}.lock", "a+") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        lock.seek(0)
        if not lock.read():
            shutil.rmtree(folder, ignore_errors=True)  # of a process that failed
            folder.mkdir()
            make(folder)
            lock.write("made")
    return folder


def built_once(factory: pytest.TempPathFactory, name: str, config: SynthConfig) -> Path:
    """Moving Shapes."""

    def make(folder: Path) -> None:
        build_data_set(config, folder / "set", say=lambda line: None)

    return made_once(factory, name, make) / "set"
