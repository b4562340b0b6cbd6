"""Calls that may crash, hang or take all memory, in a process of its own."""

from __future__ import annotations

import contextlib
import errno
import importlib
import mmap
import os
import pickle
import re
import resource
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from stoa.data.decoding.base import DecodeError
from stoa.data.decoding.findings import as_finding, attempt
from stoa.data.decoding.limits import MEMORY_BYTES
from stoa.memory import KEEP_FREED_MEMORY
from stoa.parents import die_with_parent

ATTEMPTS = 3
_END_SECONDS = 10
_START_SECONDS = 120  # on a machine under load; an input is not to blame for it
_ALIVE_SECONDS = 1.0
_STORAGE_SECONDS = 300.0  # in which one must answer
_LONGEST_CALL = 24
_SHARED_BYTES = 1 << 20  # to copy more takes longer than to map it
_ALIVE, _READING = "alive", "reading"


class Guard:
    """One helper process, started at the first call and again after it crashed or hung.

    Args:
        timeout_seconds: a call that gives no sign of life (:func:`alive`) for longer counts as hung.
        attempts: calls that crash before the input is blamed; of those that hang one is enough.
        longest_call: so many times the timeout no call may take, whatever signs it gives.
        memory_bytes: that a call may take.
    """

    def __init__(
        self,
        timeout_seconds: float,
        attempts: int = ATTEMPTS,
        *,
        longest_call: float = _LONGEST_CALL,
        memory_bytes: int = MEMORY_BYTES,
    ) -> None:
        self.timeout_seconds = timeout_seconds
        self.attempts = attempts
        self.longest_call = longest_call
        self.memory_bytes = memory_bytes
        self._process: subprocess.Popen[bytes] | None = None
        self._connection: Connection | None = None
        self._memory = -1
        self._owner = 0

    def call(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """``function(*arguments)`` in the helper; both and the result must be picklable. A helper that starts imports
        the function's module first, which is no part of the time an input has. Arrays of a mebibyte and more are in
        shared memory, which the next call writes to.

        Raises:
            DecodeError: of kind ``hang``, or ``crash`` after the last attempt; or what the function raises, see
                :func:`stoa.data.decoding.findings.attempt`.
            OSError: a storage does not answer, or the helper does not start: no input is to blame.
        """
        error: DecodeError | None = None
        for _ in range(self.attempts):
            try:
                return self._call_once(function, arguments)
            except _Lost as lost:
                self.close()
                if lost.kind == "hang":  # each costs a timeout, and the next one would hang as well
                    raise DecodeError(lost.kind, str(lost)) from None
                error = DecodeError(lost.kind, f"{lost}, {self.attempts} times")
        assert error is not None
        raise error

    def close(self) -> None:
        """End the helper."""
        if self._process is not None and self._owner == os.getpid():
            self._process.kill()
            with contextlib.suppress(subprocess.TimeoutExpired):  # while a storage hangs it does not end
                self._process.wait(_END_SECONDS)
        if self._connection is not None:
            self._connection.close()
            os.close(self._memory)
        self._process = self._connection = None

    def __del__(self) -> None:
        with contextlib.suppress(Exception):
            self.close()

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_process": None, "_connection": None}

    def _call_once(self, function: Callable[..., Any], arguments: tuple[Any, ...]) -> Any:
        connection = self._helper(function.__module__)
        try:
            connection.send((function, arguments))
            result, error = _received(self._await_answer(connection), self._memory)
        except TimeoutError:
            raise
        except (EOFError, OSError):
            raise _Lost("crash", f"decoding crashed its process ({self._ending()})") from None
        if error is not None:
            raise error
        return result

    def _await_answer(self, connection: Connection) -> tuple[bytes, list[int]]:
        reading, ends = False, time.monotonic() + self.longest_call * self.timeout_seconds
        while True:
            left = ends - time.monotonic()
            if not connection.poll(_STORAGE_SECONDS if reading else max(0.0, min(self.timeout_seconds, left))):
                break
            answer = connection.recv()
            if answer not in (_ALIVE, _READING):
                return answer
            if reading:  # the time that it took is not the input's
                ends = time.monotonic() + left
            reading = answer == _READING
        if reading:
            self.close()
            raise TimeoutError(errno.ETIMEDOUT, f"a storage gave no answer within {_STORAGE_SECONDS:g} s")
        if left < self.timeout_seconds:
            raise _Lost("hang", f"decoding was not done after {self.longest_call * self.timeout_seconds:g} s")
        raise _Lost("hang", f"decoding gave no answer within {self.timeout_seconds:g} s")

    def _helper(self, module: str) -> Connection:
        if self._owner != os.getpid():  # a fork has its own
            self._process = self._connection = None
        elif self._process is not None and self._process.poll() is not None:
            self.close()  # it ended between calls, as with the thread that began it, for which no input is to blame
        if self._connection is None:
            ours, theirs = socket.socketpair()
            self._memory = _shared_memory()
            descriptors = theirs.fileno(), self._memory
            arguments = *map(str, descriptors), str(self.memory_bytes), module
            command = [sys.executable, "-m", "stoa.data.decoding.guard", *arguments]
            self._process = subprocess.Popen(
                command, pass_fds=descriptors, stdin=subprocess.DEVNULL, env={**KEEP_FREED_MEMORY, **os.environ}
            )
            theirs.close()
            self._connection, self._owner = Connection(ours.detach()), os.getpid()
            self._await_start(self._connection)
        return self._connection

    def _await_start(self, connection: Connection) -> None:
        try:
            if connection.poll(_START_SECONDS):
                connection.recv()
                return
            why = f"nothing heard of it within {_START_SECONDS} s"
        except (EOFError, OSError):
            why = self._ending()
        self.close()
        raise OSError(f"the process to decode videos in does not start ({why}); see above for its error")

    def _ending(self) -> str:
        """How the helper, which has closed its side, ended."""
        assert self._process is not None
        try:
            status = self._process.wait(_END_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            status = self._process.wait()
        return signal.Signals(-status).name if status < 0 else f"exit status {status}"


class _Lost(Exception):
    def __init__(self, kind: str, message: str) -> None:
        super().__init__(message)
        self.kind = kind


class _Life:
    """Of this process as a helper: to whom to tell that a call goes on, and when it was told last."""

    connection: Connection | None = None
    told = 0.0


def alive() -> None:
    """Say that the call in this helper goes on; nothing outside of a helper. A long video is no hang."""
    now = time.monotonic()
    if _Life.connection is not None and now - _Life.told > _ALIVE_SECONDS:
        _tell(_ALIVE)


@contextlib.contextmanager
def reading_from_storage() -> Iterator[None]:
    """In this block a helper waits for a storage, for which no input is to blame."""
    _tell(_READING)
    yield
    _tell(_ALIVE)


def _tell(sign: str) -> None:
    if _Life.connection is not None:
        _Life.told = time.monotonic()
        _Life.connection.send(sign)


def _shared_memory() -> int:
    """A file in memory, through which arrays travel: a pipe is several times slower."""
    if hasattr(os, "memfd_create"):
        return os.memfd_create("stoa")
    descriptor, path = tempfile.mkstemp()
    os.unlink(path)
    os.set_inheritable(descriptor, True)
    return descriptor


def _send(connection: Connection, memory: int, answer: tuple[Any, Exception | None]) -> None:
    arrays: list[pickle.PickleBuffer] = []
    content = pickle.dumps(answer, protocol=5, buffer_callback=arrays.append)
    sizes, offset = [], 0
    for array in arrays:
        with array.raw() as raw:
            sizes.append(raw.nbytes)
            while raw.nbytes:
                written = os.pwrite(memory, raw, offset)
                raw, offset = raw[written:], offset + written
    connection.send((content, sizes))


def _received(answer: tuple[bytes, list[int]], memory: int) -> tuple[Any, Exception | None]:
    content, sizes = answer
    arrays: list[bytearray | memoryview] = []
    shared = memoryview(mmap.mmap(memory, sum(sizes))) if max(sizes, default=0) >= _SHARED_BYTES else memoryview(b"")
    offset = 0
    for size in sizes:
        if size >= _SHARED_BYTES:
            arrays.append(shared[offset : offset + size])
            offset += size
            continue
        array = bytearray(size)
        with memoryview(array) as rest:
            while rest.nbytes:
                read = os.preadv(memory, [rest], offset)
                rest, offset = rest[read:], offset + read
        arrays.append(array)
    return pickle.loads(content, buffers=arrays)


def _limit_memory(allowed: int) -> None:
    """Let this process have so much more than it has, on Linux."""
    if sys.platform != "linux":
        return
    held = re.search(r"^VmData:\s+(\d+) kB$", Path("/proc/self/status").read_text(), re.MULTILINE)
    assert held is not None
    _, hard = resource.getrlimit(resource.RLIMIT_DATA)
    limit = int(held[1]) * 1024 + allowed
    resource.setrlimit(resource.RLIMIT_DATA, (limit if hard == resource.RLIM_INFINITY else min(limit, hard), hard))


def _serve(descriptor: int, memory: int, allowed: int, module: str) -> None:
    """Answer calls, the first of them to a function of ``module``, until the other side goes."""
    for number in (signal.SIGINT, signal.SIGTERM):  # they reach the whole group; the owner ends its helper
        signal.signal(number, signal.SIG_IGN)
    die_with_parent()  # a helper that hangs never reads that its owner has gone
    importlib.import_module(module)  # the decoders' libraries take their time
    _limit_memory(allowed)
    connection = Connection(descriptor)
    # This file is the program here, and a module of its own to those that call alive().
    life = sys.modules["stoa.data.decoding.guard"]._Life if "stoa.data.decoding.guard" in sys.modules else _Life
    life.connection = connection
    with contextlib.suppress(EOFError, ConnectionError):  # the other side has gone
        connection.send("ready")
        while True:
            _answer(connection, memory, life, *connection.recv())


def _answer(
    connection: Connection, memory: int, life: type[_Life], function: Callable[..., Any], arguments: tuple[Any, ...]
) -> None:
    answer: tuple[Any, Exception | None]
    life.told = time.monotonic()
    try:
        answer = attempt(function, *arguments), None
    except Exception as error:
        answer = None, error.with_traceback(None)  # which would hold this call, and what it has read
    try:
        _send(connection, memory, answer)
    except MemoryError as error:
        _send(connection, memory, (None, as_finding(error)))
    except (pickle.PicklingError, TypeError, AttributeError):
        _send(connection, memory, (None, RuntimeError(repr(answer[1]))))


if __name__ == "__main__":
    _serve(int(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), sys.argv[4])
