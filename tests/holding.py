"""Folders and files that another process holds to write to."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

_HOLD = """
import os, subprocess, sys, time
from pathlib import Path
from stoa.locks import only_writer, only_writer_of
sys.argv = ["/bin/stoa", "finetune", "--x"]
hold = only_writer if os.environ["KIND"] == "folder" else only_writer_of
with hold(Path(os.environ["PLACE"]), "--out"):
    print("held", flush=True)
    if os.environ["CHILD"] == "fork":
        child = os.fork()
        if not child:
            time.sleep(1000)
        print(child, flush=True)
    elif os.environ["CHILD"]:
        command = [sys.executable, "-c", "import time; time.sleep(1000)"]
        print(subprocess.Popen(command, close_fds=False).pid, flush=True)
    sys.stdin.read()
"""


class Holder:
    """A process that writes to ``place``, a ``folder`` or a ``file``, as ``stoa finetune`` would.

    Args:
        child: it starts one that outlives it, by ``fork`` or ``start``.
    """

    def __init__(self, place: Path, kind: str = "folder", child: str = "") -> None:
        environment = {**os.environ, "PLACE": str(place), "KIND": kind, "CHILD": child}
        self._process = subprocess.Popen(
            [sys.executable, "-c", _HOLD], env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        assert self._process.stdout is not None
        assert self._process.stdout.readline() == "held\n"
        self._child = int(self._process.stdout.readline()) if child else None

    @property
    def pid(self) -> int:
        return self._process.pid

    def end(self) -> None:
        """Let it go by itself."""
        self._process.communicate()

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()

    def close(self) -> None:
        if self._child is not None:
            os.kill(self._child, signal.SIGKILL)
        self.kill()
        self._process.communicate()
