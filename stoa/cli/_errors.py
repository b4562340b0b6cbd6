"""How a command that fails says so and leaves."""

from __future__ import annotations

import os
import re
import signal
import sys
import time
import traceback
from collections.abc import Callable

from stoa.endings import LostProcess, Status, called_as, complain
from stoa.files import tells_of_room
from stoa.parents import die_with_launcher

_OUT_OF_MEMORY = re.compile(r"DefaultCPUAllocator: (can't allocate|not enough) memory")
_FORESEEN = (ValueError, FloatingPointError, OSError, LostProcess, KeyboardInterrupt)

_LAUNCHER_SECONDS = 10.0


def end_with(command: str, error: BaseException) -> Status:
    """Say in one line why a command ends; the status that it ends with."""
    status = _status_of(error)
    if status is Status.LOST:
        _leave_the_word_to_others()
    said = " ".join(str(foreseen(error) or error).split())
    if status is Status.INTERRUPTED:
        complain(command, said or "interrupted")
    else:
        complain(command, f"error: {said}" if foreseen(error) is not None else f"error: {type(error).__name__}: {said}")
    return status


def foreseen(error: BaseException) -> BaseException | None:
    """What is told in one line: the error itself, or what one of torch's means that may come up anywhere."""
    if isinstance(error, _FORESEEN):
        return error
    if isinstance(error, MemoryError) or _OUT_OF_MEMORY.search(str(error)):
        return ValueError(f"out of memory on this machine ({' '.join(str(error).split())[:200]})")
    torch = sys.modules.get("torch")  # which commands that do not use it do not import
    if torch is None or not isinstance(error, RuntimeError):
        return None
    if isinstance(error, torch.OutOfMemoryError):
        less = "give it less at a time (stoa evaluate --batch_size, stoa detect --batch_frames), or another GPU"
        return ValueError(f"out of memory on the GPU; {less} ({str(error)[:200]})")
    from stoa.data.loading import of_a_loader

    return of_a_loader(error, "the number of loader processes (--data.num_workers, --num_workers)")


def _status_of(error: BaseException) -> Status:
    if tells_of_room(error):
        return Status.DISK_FULL
    kinds: dict[type[BaseException], Status] = {
        KeyboardInterrupt: Status.INTERRUPTED,
        LostProcess: Status.LOST,
        FloatingPointError: Status.DIVERGED,
        ValueError: Status.BAD_INPUT,
        OSError: Status.BAD_INPUT,
    }
    told = foreseen(error)
    return next((status for kind, status in kinds.items() if isinstance(told, kind)), Status.FAILED)


def _leave_the_word_to_others() -> None:
    """Who has lost another process waits for the launcher, which ends all of its machine with the words of the one."""
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    time.sleep(_LAUNCHER_SECONDS)


def run_and_leave(main: Callable[[], int]) -> None:
    """End the process with the status that ``main`` returns, or with 1, the traceback of what it raises, and a line.

    After a failure no clean-up waits for other ranks in a collective, or for loader processes.
    """
    die_with_launcher()
    try:
        code = main()
    except Exception as error:
        traceback.print_exc()
        code = end_with(called_as(), error)
    if code:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    sys.exit(code)
