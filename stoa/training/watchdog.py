"""A run that hangs ends: every process watches its own progress, whatever the others are stuck in."""

from __future__ import annotations

import faulthandler
import os
import socket
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import NamedTuple, NoReturn

import torch.distributed as dist

from stoa.endings import Status, called_as, complain

HANGS = "hangs"
"""Folder of a run for the stacks of processes that hung."""

_STDERR = 2
_MOST_LOOK_SECONDS = 1.0
_WRITE_SECONDS, _OTHERS_SECONDS = 10.0, 2.0
_OF_COLLECTIVES = os.path.join("torch", "distributed")
_MEETING_SECONDS = 15.0  # beyond its own limit, which tells more


class _Phase(NamedTuple):
    what: str
    limit_seconds: float
    since: float

    @property
    def ends(self) -> float:
        return self.since + self.limit_seconds

    @property
    def left_seconds(self) -> float:
        return self.ends - time.monotonic()


class Watchdog:
    """Ends this process, with :attr:`Status.HUNG`, where something takes longer than its limit. It writes the stacks of
    all threads first.

    It is a thread of Python, which a stuck collective, loader or disk does not keep from running. Where a library lets
    no thread of Python run, the stacks go to stderr and the status is 1.

    Args:
        folder: of the run.
        rank: of this process.
        start_seconds: until the first step has ended.
        step_seconds: for every later step; a save may take 3 times as long, and a validation 12 times.
    """

    def __init__(self, folder: Path, rank: int, start_seconds: float, step_seconds: float) -> None:
        self._rank = rank
        self._path = folder / HANGS / f"rank-{rank}.txt"
        self._step = 0
        self._step_seconds = step_seconds
        self._limits = {
            "meeting": start_seconds + _MEETING_SECONDS,
            "save": 3 * step_seconds,
            "validation": 12 * step_seconds,
            "end": step_seconds,
        }
        self._phase = _Phase("the start", start_seconds, time.monotonic())
        self._armed_for = self._phase.ends
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="watchdog", daemon=True)

    def __enter__(self) -> Watchdog:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._over.set()
        self._thread.join()
        faulthandler.cancel_dump_traceback_later()

    def step_ended(self, step: int) -> None:
        """Of the optimiser; the next one may take its time."""
        self._step = step
        self._begin(_Phase(f"step {step + 1}", self._step_seconds, time.monotonic()))

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """What has a limit of its own: ``meeting``, ``save``, ``validation`` or ``end``. That of what it is a part of
        begins anew after it."""
        around = self._phase
        self._begin(_Phase(f"the {name} after step {self._step}", self._limits[name], time.monotonic()))
        try:
            yield
        finally:
            self._begin(around._replace(since=time.monotonic()))

    def _begin(self, phase: _Phase) -> None:
        self._phase = phase
        if phase.ends < self._armed_for and self._thread.is_alive():  # which has had no chance yet, and may get none
            self._arm(phase)

    def _arm(self, phase: _Phase) -> None:
        """Of the system, which needs no thread of Python; put off as long as the watching one runs."""
        faulthandler.dump_traceback_later(max(phase.left_seconds, 0.0) + _WRITE_SECONDS, exit=True, file=_STDERR)
        self._armed_for = phase.ends

    def _watch(self) -> None:
        while not self._over.wait(min(_MOST_LOOK_SECONDS, self._step_seconds / 4)):
            phase = self._phase
            if phase.left_seconds <= 0:
                self._leave(phase)
            self._arm(phase)

    def _leave(self, phase: _Phase) -> NoReturn:
        ending = threading.Timer(_WRITE_SECONDS, os._exit, [int(Status.HUNG)])  # what hangs may be the disk
        ending.daemon = True
        ending.start()
        where = _where()
        hung = f"{phase.what} has not ended within {phase.limit_seconds:.4g} s, at {where}"
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            with open(self._path, "a") as file:
                now = time.strftime("%Y-%m-%d %H:%M:%S %z")
                print(f"\n{now} {socket.gethostname()} process {os.getpid()}: {hung}", file=file, flush=True)
                faulthandler.dump_traceback(file)
            written = f"the stacks of all its threads are in {self._path}"
        except OSError as error:
            faulthandler.dump_traceback(_STDERR)
            written = f"the stacks of all its threads are above, as {self._path} cannot be written ({error.strerror})"
        if _OF_COLLECTIVES in where:  # who waits for another leaves it the first word
            time.sleep(_OTHERS_SECONDS)
        complain(called_as(), f"error: hung: {hung}; {written}")
        try:
            _write_collectives(self._rank)
        finally:
            os._exit(Status.HUNG)


def _where() -> str:
    """The innermost call of the main thread."""
    frame = sys._current_frames()[threading.main_thread().ident or 0]
    return f"{frame.f_code.co_filename}:{frame.f_lineno} ({frame.f_code.co_qualname})"


def _write_collectives(rank: int) -> None:
    """The last ones of NCCL, where torch's flight recorder keeps them (cluster/env.sh)."""
    prefix = os.environ.get("TORCH_FR_DUMP_TEMP_FILE")
    if prefix and dist.is_initialized() and dist.get_backend() == "nccl":
        from torch._C._distributed_c10d import _dump_nccl_trace  # type: ignore[attr-defined]

        Path(f"{prefix}{rank}").write_bytes(_dump_nccl_trace())
