"""Signals that ask a run to end."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

ASKING = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR2)


@contextmanager
def asked_to_end() -> Iterator[set[int]]:
    """The SIGINT, SIGTERM and SIGUSR2 that have come: they ask for an end, and a second SIGINT takes effect at once.

    DeepSpeed's launcher follows the terminal's SIGINT with a SIGTERM of its own; of Slurm and torchrun each sends a
    SIGTERM. SIGUSR2 is what cluster/slurm.sbatch has Slurm send ahead of a time limit (SIGUSR1 is NCCL's).
    """
    came = set[int]()

    def handler(signum: int, frame: Any) -> None:
        if signum == signal.SIGINT and signum in came:
            raise KeyboardInterrupt("interrupted twice, stopped at once; see the last checkpoint")
        came.add(signum)

    if threading.current_thread() is not threading.main_thread():
        yield came
        return
    before = {number: signal.signal(number, handler) for number in ASKING}
    try:
        yield came
    finally:
        for number, old in before.items():
            signal.signal(number, old)
