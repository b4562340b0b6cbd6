"""Signals that ask a run to end."""

from __future__ import annotations

import os
import signal
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

from stoa.endings import Status, called_as, complain

ASKING = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2)
_ONE_REQUEST_SECONDS = 5.0


@contextmanager
def asked_to_end() -> Iterator[set[int]]:
    """The SIGINT, SIGTERM, SIGUSR1 and SIGUSR2 that have come, which ask for an end. Once more the same, and the
    process ends at once, whatever it is stuck in.

    A launcher may send on what has come to the process already: DeepSpeed's follows the terminal's SIGINT with a
    SIGTERM of its own, and of Slurm and torchrun each sends a SIGTERM. So of all but Ctrl-C the same within some
    seconds is one request.
    """
    came = set[int]()
    if threading.current_thread() is not threading.main_thread():
        yield came
        return
    # What the system calls when a signal comes writes its number here, while the main thread may be stuck in a
    # collective and call no handler of Python's.
    numbers, written = socket.socketpair()
    written.setblocking(False)
    threading.Thread(target=_watch, args=(numbers,), name="signals", daemon=True).start()
    before_fd = signal.set_wakeup_fd(written.fileno(), warn_on_full_buffer=False)
    before = {number: signal.signal(number, lambda number, frame: came.add(number)) for number in ASKING}
    try:
        yield came
    finally:
        for number, old in before.items():
            signal.signal(number, old)
        signal.set_wakeup_fd(before_fd)
        written.close()


def _watch(numbers: socket.socket) -> None:
    came: dict[int, float] = {}
    with numbers:
        while received := numbers.recv(64):
            for number in filter(ASKING.__contains__, received):
                now = time.monotonic()
                if number in came and (number == signal.SIGINT or now - came[number] > _ONE_REQUEST_SECONDS):
                    complain(
                        called_as(), f"a second {signal.Signals(number).name}: ended at once, see the last checkpoint"
                    )
                    os._exit(Status.INTERRUPTED)
                came.setdefault(number, now)


def _forget() -> None:
    """In a loader process: what comes to it is not for its parent."""
    if threading.current_thread() is threading.main_thread():
        signal.set_wakeup_fd(-1)


os.register_at_fork(after_in_child=_forget)
