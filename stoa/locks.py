"""One writer to a folder, or to a file.

A writer holds a record lock (``fcntl``) on a file in the folder. The system gives it up when its process ends, however
it ends, so nothing is left to clear away by hand; children do not inherit it. It reaches as far as the file system's
locks do, see docs/reliability.md.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import socket
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from stoa.files import descriptor_to_append, making, remove_temporaries, writing

LOCK_FILE = ".stoa.lock"
_NO_LOCKS = {errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL}
_HELD = {errno.EACCES, errno.EAGAIN}
_SECONDS_BETWEEN_TRIES = 0.5
# A record lock belongs to the process and is lost when it closes the file once more, so the process has to know.
_held: set[tuple[int, str]] = set()


class InUse(ValueError):
    """Somebody else writes there."""


@contextlib.contextmanager
def only_writer(folder: Path, option: str, *, wait: Callable[[str], None] | None = None) -> Iterator[None]:
    """Be the only one to write to a folder, which is made if it is not there.

    Args:
        folder: to write to.
        option: that names it, for messages.
        wait: waits for another writer to end and is told so in one line, where otherwise it is refused.

    Raises:
        InUse: another process writes to it; the message says which one, where, and since when.
        ValueError: it is a file, or holds a link.
        StorageError: it cannot be written to.
    """
    with making(folder, option):
        _refuse_links(folder, option)
        with _locked(folder / LOCK_FILE, folder, option, wait):
            yield


def _refuse_links(folder: Path, option: str) -> None:
    """In a folder from elsewhere they may lead anywhere, and what is written, or deleted, would be there."""
    with os.scandir(folder) as entries:
        link = min((entry.name for entry in entries if entry.is_symlink()), default=None)
    if link is not None:
        raise ValueError(
            f"{folder} holds a link, {link} -> {os.readlink(folder / link)}, and what is written goes to folders "
            f"themselves; remove it, or name the place that it leads to as {option}"
        )


@contextlib.contextmanager
def only_writer_of(file: Path, option: str) -> Iterator[None]:
    """As :func:`only_writer`, of one file."""
    with making(file.parent, option), _locked(file.with_name(f".{file.name}.lock"), file, option, None):
        remove_temporaries(file.parent, file.name)
        yield


@contextlib.contextmanager
def _locked(path: Path, what: Path, option: str, wait: Callable[[str], None] | None) -> Iterator[None]:
    own = os.getpid(), os.path.realpath(path)
    said = False
    while True:
        if own in _held:
            raise InUse(f"{what} is being written by this process already; choose another {option}")
        _held.add(own)
        try:
            descriptor = _take(path, what, option)
        except InUse as error:
            _held.discard(own)
            if wait is None:
                raise InUse(f"{error}; wait for it, or choose another {option}") from None
            if not said:
                wait(f"{error}; waiting for it")
                said = True
            time.sleep(_SECONDS_BETWEEN_TRIES)
        except BaseException:
            _held.discard(own)
            raise
        else:
            break
    try:
        yield
    finally:
        if own[0] == os.getpid():  # a forked child has not the lock
            with contextlib.suppress(OSError):
                path.unlink(missing_ok=True)
            os.close(descriptor)
            _held.discard(own)


def _take(path: Path, what: Path, option: str) -> int:
    """The descriptor that holds the lock."""
    while True:
        with writing(what, then=f"choose another {option}"):
            descriptor = descriptor_to_append(path)
        try:
            _lock(descriptor, what)
            if _is_there(descriptor, path):
                try:
                    with writing(what, then=f"choose another {option}"):
                        _sign(descriptor)
                except OSError:
                    path.unlink(missing_ok=True)
                    raise
                return descriptor
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)


def _is_there(descriptor: int, path: Path) -> bool:
    """Whether the file is not one that its last holder has deleted meanwhile. On NFS the name may be of the cache."""
    try:
        own = os.fstat(descriptor)
        return own.st_nlink > 0 and os.path.samestat(own, os.stat(path))
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.ESTALE):
            return False
        raise


def _lock(descriptor: int, what: Path) -> None:
    try:
        fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in _HELD:
            raise InUse(f"{what} is being written by {_holder(descriptor)}") from None
        if error.errno == errno.ESTALE:
            return
        if error.errno not in _NO_LOCKS:
            raise
        print(f"{what}: its file system has no locks ({error.strerror}); see to it that nobody else writes there")


def _sign(descriptor: int) -> None:
    """Say who holds the lock."""
    with contextlib.suppress(PermissionError):
        os.fchmod(descriptor, 0o666)  # who may write to the folder may take the lock after us
    holder = {
        "host": socket.gethostname(),
        "process": os.getpid(),
        "since": time.strftime("%Y-%m-%d %H:%M"),
        "command": _command(),
    }
    os.ftruncate(descriptor, 0)
    os.pwrite(descriptor, json.dumps(holder).encode(), 0)
    os.fsync(descriptor)


def _holder(descriptor: int) -> str:
    for _ in range(10):
        try:
            holder: dict[str, Any] = json.loads(os.pread(descriptor, 4096, 0))
        except ValueError:  # it has the lock and has not signed yet
            time.sleep(0.05)
            continue
        return "process {process} on {host} since {since} ({command})".format_map(holder)
    return "another process"


def _command() -> str:
    """``stoa finetune``, ``train.py``."""
    name = Path(sys.argv[0]).name
    words = [word for word in sys.argv[1:] if not word.startswith("-")]
    if name in ("stoa", "__main__.py"):
        return " ".join(("stoa", *words[:1]))
    return name or "python"
