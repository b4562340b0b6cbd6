"""The processes of a loader: started from one with threads, given a time, and their errors told in a line."""

from __future__ import annotations

import gc
import multiprocessing
import re
import signal
from collections.abc import Iterable, Iterator
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch.utils.data import DataLoader

from stoa.files import free_bytes, in_units
from stoa.forks import weights_left_out
from stoa.parents import die_with_parent

T = TypeVar("T")
# torch's words; a worker that writes to a page that there is no room for is killed.
_NO_SHARED_MEMORY = re.compile(
    r"shared memory\(shm\)|Bus error|shared memory object|unable to (write to|mmap|resize|allocate)[^\n]*torch_"
)
_TIMED_OUT = re.compile(r"DataLoader timed out after (\S+) seconds")
_LEAST_LOADER_TIMEOUT = 480.0


def loader_timeout(decode_timeout_seconds: float) -> float:
    """Seconds in which a loader process must give a batch, of which a clip or two may hang."""
    return max(_LEAST_LOADER_TIMEOUT, 8 * decode_timeout_seconds)


def started(loader: DataLoader) -> Iterator[Any]:
    """The batches of a loader, whose processes are forked here.

    What this process has must not be freed in theirs: to free a scaler of FFmpeg there waits for ever for threads that
    a fork does not have, and garbage collection may come upon one at any time. Weights are not theirs either.
    """
    if not loader.num_workers:
        return iter(loader)
    others = set(multiprocessing.active_children())
    gc.collect()
    with weights_left_out():  # which are looked for: gc tells of nothing that is frozen
        gc.freeze()
        try:
            batches = iter(loader)
        finally:
            gc.unfreeze()
    return _until_stuck(batches, set(multiprocessing.active_children()) - others)


def _until_stuck(batches: Any, workers: Iterable[BaseProcess]) -> Iterator[Any]:
    """Processes that give no batch in time are killed: they would hold up the end as well."""
    try:
        yield from batches
    except RuntimeError as error:
        if _TIMED_OUT.search(str(error)):
            torch._C._remove_worker_pids(id(batches))  # whose death torch would raise once more, anywhere
            batches._worker_pids_set = False
            for worker in workers:
                worker.kill()
        raise


def one_line_errors(batches: Iterator[T], workers: str) -> Iterator[T]:
    """A worker's error arrives with the worker's traceback around it; the user gets its last line.

    Args:
        batches: of a loader.
        workers: the option that says how many processes it has.

    Raises:
        ValueError: also where a loader process was killed, or found no room in shared memory.
    """
    try:
        yield from batches
    except (ValueError, OSError) as error:
        raise type(error)(_last_line(error)) from None
    except RuntimeError as error:
        told = of_a_loader(error, workers)
        if told is None:
            raise
        raise told from None


def of_a_loader(error: RuntimeError, workers: str) -> ValueError | None:
    """What is wrong with a loader process, if the error is of one. torch tells of its death wherever the main thread is
    at that time."""
    if _NO_SHARED_MEMORY.search(str(error)):
        free = in_units(free_bytes(Path("/dev/shm")))
        return ValueError(
            f"shared memory is full ({_last_line(error)[:200]}): loader processes pass batches through /dev/shm, "
            f"which has {free} free; give a container more (docker run --shm-size 8g, or --ipc host), or set "
            f"{workers} 0"
        )
    if (timed_out := _TIMED_OUT.search(str(error))) is not None:
        return ValueError(
            f"no loader process gave a batch within {timed_out[1]} s: a storage hangs, or clips take too long to "
            f"read ('stoa data check' says which); lower {workers}, or raise data.loader_timeout_seconds"
        )
    if "DataLoader worker" in str(error):
        return ValueError(f"a loader process died ({_last_line(error)}); lower {workers} or free memory")
    return None


def _last_line(error: Exception) -> str:
    last = str(error).strip().splitlines()[-1]
    for kind in type(error).__mro__:
        last = last.removeprefix(f"{kind.__module__}.{kind.__qualname__}: ").removeprefix(f"{kind.__qualname__}: ")
    return last


def start_worker(worker: int) -> None:
    torch.set_num_threads(1)
    die_with_parent()
    for number in (signal.SIGINT, signal.SIGTERM):  # they reach the whole group; the trainer ends its workers
        signal.signal(number, signal.SIG_IGN)
