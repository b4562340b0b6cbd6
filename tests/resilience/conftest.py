"""Trainings with a fault."""

import socket
from collections.abc import Callable, Iterator

import pytest
from launch import free_port
from trainings import data_set, start  # noqa: F401


@pytest.fixture
def hold_port() -> Iterator[int]:
    """A port that another program has."""
    with socket.socket() as other:
        other.bind(("", 0))
        other.listen()
        yield other.getsockname()[1]


@pytest.fixture
def launchers(monkeypatch: pytest.MonkeyPatch) -> Callable[[str, str], tuple[str, ...]]:
    """The command of a launcher, that starts two processes of a script."""

    def command(name: str, script: str) -> tuple[str, ...]:
        port = str(free_port())
        monkeypatch.setenv("STOA_ENTRY", script)
        monkeypatch.setenv("DS_ACCELERATOR", "cpu")
        return {
            "torchrun": ("cluster/node.sh",),
            "deepspeed": ("deepspeed", "--num_gpus", "2", "--master_port", port, script),
        }[name]

    return command
