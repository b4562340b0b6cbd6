"""train.py of which one rank has a fault: FAULT is its kind, the step before which it comes, and the rank."""

import ctypes
import multiprocessing
import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parents[2]))

import train  # noqa: E402
from stoa import run  # noqa: E402
from stoa.cli._errors import run_and_leave  # noqa: E402
from stoa.training import saving  # noqa: E402
from stoa.training.trainer import Trainer  # noqa: E402

FOR_EVER = 10_000


def refuse() -> None:
    raise ValueError("planted: the data is not what it should be")


def fail() -> None:
    raise RuntimeError("planted: CUDA error: an illegal memory access was encountered")


def sleep() -> None:
    time.sleep(FOR_EVER)


def sleep_in_a_library() -> None:
    """Where no handler of Python's is called."""
    library = ctypes.CDLL(None)
    begun = time.monotonic()
    while time.monotonic() < begun + FOR_EVER and library.usleep(10**9):  # a signal interrupts it
        pass


def sleep_with_the_interpreter() -> None:
    """In a library that does not let other threads of Python run."""
    ctypes.PyDLL(None).sleep(FOR_EVER)


def stop() -> None:
    """Frozen as a whole, by somebody else."""
    os.kill(os.getpid(), signal.SIGSTOP)


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def leave() -> None:
    os._exit(7)


def never_saves() -> None:
    """The disk does not answer from now on."""
    saving.begin = lambda *arguments, **settings: sleep()


def never_loads() -> None:
    """The loader process that has the next batch is stopped."""
    (loader,) = multiprocessing.active_children()
    os.kill(loader.pid, signal.SIGSTOP)


FAULTS: dict[str, Callable[[], None]] = {
    f.__name__: f
    for f in (
        refuse,
        fail,
        sleep,
        sleep_in_a_library,
        sleep_with_the_interpreter,
        stop,
        die,
        leave,
        never_saves,
        never_loads,
    )
}


def plant(kind: str, planted_step: int, planted_rank: int) -> None:
    train_step = Trainer.train_step

    def planted(self, batches):
        if self.step + 1 == planted_step and int(os.environ.get("RANK", "0")) == planted_rank:
            FAULTS[kind]()
        return train_step(self, batches)

    Trainer.train_step = planted


def plant_versions(planted_rank: int) -> None:
    if int(os.environ.get("RANK", "0")) == planted_rank:
        own = run.versions
        run.versions = lambda: own() | {"deepspeed": "0.1"}


if __name__ == "__main__":
    kind, step, rank = os.environ["FAULT"].split()
    torch.set_num_threads(1)
    if kind == "other_versions":
        plant_versions(int(rank))
    else:
        plant(kind, int(step), int(rank))
    run_and_leave(train.train)
