"""Programs of Python that are forked from a process which has imported torch and DeepSpeed: these start several times
faster. One such process serves all processes of the tests.

As a program, ``fork_server.py DESCRIPTOR``, it is that process: it listens at the socket of the descriptor until its
input ends. A request is a line of JSON, the arguments of :func:`run`; the answer is the process's id and, when it has
ended, its exit status.
"""

from __future__ import annotations

import atexit
import importlib
import json
import multiprocessing
import os
import runpy
import select
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parent.parent
IMPORTED = (
    "deepspeed",
    "stoa.run",
    "stoa.cli.train",
    "stoa.tasks.finetune",
    "deepspeed.runtime.zero.muon.muon_optimizer",  # brings inductor
    "deepspeed.module_inject.auto_ep_layer",
    "docstring_parser",
)


class ForkServer:
    """A server that ends with the process that has started it, however that ends. It imports nothing before it is
    asked for a program."""

    def __init__(self) -> None:
        folder = Path(tempfile.mkdtemp(prefix="fork-server-"))
        self.address = str(folder / "socket")
        with socket.socket(socket.AF_UNIX) as listener, open(folder / "said", "w") as said:
            listener.bind(self.address)
            listener.listen(64)
            self._process = subprocess.Popen(
                [sys.executable, __file__, str(listener.fileno())],
                stdin=subprocess.PIPE,
                stdout=said,
                stderr=said,
                pass_fds=[listener.fileno()],
                start_new_session=True,  # what interrupts the tests does not interrupt it
            )

    def close(self) -> None:
        self._process.communicate()


class Forked:
    """A program that a server has been asked for; see :func:`run`."""

    def __init__(self, address: str, **asked: object) -> None:
        self.code: int | None = None
        """Exit status once it is known, as of :attr:`subprocess.Popen.returncode`."""
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.connect(address)
        self._socket.sendall(json.dumps(asked).encode() + b"\n")
        self._answers = self._socket.makefile("rb", buffering=0)  # what it holds back, select would not see
        self.pid = self._answer()

    def poll(self) -> int | None:
        """The exit status if it has ended."""
        if self.code is None and select.select([self._socket], [], [], 0)[0]:
            self.code = self._answer()
            self._answers.close()
            self._socket.close()
        return self.code

    def _answer(self) -> int:
        line = self._answers.readline()
        if not line:
            said = (Path(self._socket.getpeername()).parent / "said").read_text()
            raise AssertionError(f"the fork server has ended:\n{said}")
        return int(line)


_given: list[str] = []


def use(address: str) -> None:
    """The server of another process."""
    _given.append(address)


def address() -> str:
    """Of the server that this process uses: its own, unless it was given one."""
    return _given[-1] if _given else _own().address


@cache
def _own() -> ForkServer:
    server = ForkServer()
    atexit.register(server.close)
    return server


def run(command: Sequence[str], environment: Mapping[str, str], out: str, err: str) -> None:
    """A file of Python or ``-m`` and a module, with arguments, in the root of the repository and a session of its own.

    Args:
        out, err: files that its output is appended to.
    """
    os.setsid()
    multiprocessing.set_start_method(None, force=True)  # the program's own, not this process's
    for path, descriptor in ((out, 1), (err, 2)):
        file = os.open(path, os.O_WRONLY | os.O_APPEND)
        os.dup2(file, descriptor)
        os.close(file)
    os.chdir(ROOT)
    os.environ.clear()
    os.environ.update(environment)
    if command[0] == "-m":
        sys.argv = list(command[1:])
        runpy.run_module(command[1], run_name="__main__", alter_sys=True)
    else:
        sys.argv = list(command)
        runpy.run_path(command[0], run_name="__main__")


@cache
def prepare() -> None:
    """What every training would do for itself: imports, and a look at which operators DeepSpeed can compile."""
    for name in IMPORTED:
        importlib.import_module(name)
    assert importlib.import_module("deepspeed.ops").__compatible_ops__


def serve(listener: socket.socket) -> None:
    """Until the input ends."""
    while listener in select.select([listener, sys.stdin], [], [])[0]:
        connection, _ = listener.accept()
        prepare()
        signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # those that answer are waited for by nobody
        if not os.fork():
            listener.close()
            answer(connection)
            os._exit(0)
        connection.close()


def answer(connection: socket.socket) -> None:
    """One request, as a process of its own: it waits for the program."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    with connection, connection.makefile("rw") as lines:
        asked = json.loads(lines.readline())
        program = multiprocessing.get_context("fork").Process(target=run, kwargs=asked)
        program.start()
        print(program.pid, file=lines, flush=True)
        program.join()
        print(program.exitcode, file=lines, flush=True)


if __name__ == "__main__":
    sys.path[0] = str(ROOT)
    with socket.socket(fileno=int(sys.argv[1])) as listening:
        serve(listening)
        shutil.rmtree(Path(listening.getsockname()).parent)
