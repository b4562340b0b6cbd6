"""Processes that end with those that have started them, however these end. On Linux."""

from __future__ import annotations

import contextlib
import ctypes
import os
import re
import signal
import sys
import threading
import time
from pathlib import Path

_PR_SET_PDEATHSIG = 1
_LOOK_SECONDS = 1.0
_OF_LAUNCHERS = ("TORCHELASTIC_RUN_ID", "CROSS_RANK")
"""Variables that torchrun, and DeepSpeed's launcher, give to those that they start."""
# As a script or as a module: torchrun, DeepSpeed's launcher for all machines, and the one of a machine.
_LAUNCHER = re.compile(
    r"(.*/)?(torchrun|deepspeed|torch[./]distributed[./]run|deepspeed[./]launcher[./](runner|launch))(\.py)?"
)


def die_with_parent(parent: int | None = None) -> None:
    """Have this process killed when the thread that started it ends; ``parent`` is the process of it, where that has
    been looked at already."""
    if sys.platform != "linux":
        return
    parent = os.getppid() if parent is None else parent
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # it ended before it could be asked for
        _die()


def die_with_launcher() -> None:
    """Have this process killed when a launcher that started it ends; nothing where there is none.

    Launchers may have launchers, as DeepSpeed's have. Those further up are looked for every second. One may have ended
    before this process came to look for it.
    """
    line = _up_to_launcher()
    if not line and any(name in os.environ for name in _OF_LAUNCHERS) and _is_adopted():
        print("the launcher of this process has ended, and so does it", file=sys.stderr, flush=True)
        _die()
    if line:
        die_with_parent(line[0])
    if len(line) > 1:
        threading.Thread(target=_die_with, args=(line,), daemon=True, name="launchers").start()


def _up_to_launcher() -> list[int]:
    """The parent of this process, its parent and so on, up to the last one that is a launcher."""
    line, launchers, pid = list[int](), 0, os.getppid()
    while pid > 0:
        line.append(pid)
        if _LAUNCHER.fullmatch(_program(pid)):
            launchers = len(line)
        pid = _parent(pid)
    return line[:launchers]


def _is_adopted() -> bool:
    """Whether the parent is what takes on those whose own has ended. In a container a launcher may be process 1, and is
    a program of Python."""
    parent = os.getppid()
    try:
        program = Path(f"/proc/{parent}/cmdline").read_bytes().decode(errors="replace").split("\0")[0]
    except OSError:
        return False
    name = Path(program).name
    return (parent == 1 and not name.startswith("python")) or name == "systemd"


def _die_with(line: list[int]) -> None:
    """Until one of them is no longer the child of the next one."""
    links = list(zip(line, line[1:], strict=False))
    while all(_parent(child) == parent for child, parent in links):
        time.sleep(_LOOK_SECONDS)
    _die()


def _die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def _program(pid: int) -> str:
    """What a process runs: of an interpreter its script or module."""
    try:
        first, *rest = Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace").split("\0")
    except OSError:
        return ""
    if not Path(first).name.startswith("python"):
        return first
    return next((word for word in rest if not word.startswith("-")), "")


def _parent(pid: int) -> int:
    """0 where it has none, or has gone."""
    with contextlib.suppress(OSError):
        return int(Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()[1])
    return 0
