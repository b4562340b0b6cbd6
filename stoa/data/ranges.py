"""Bytes of files, here or at URLs that fsspec knows."""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Callable

import fsspec

from stoa.data.decoding.guard import reading_from_storage
from stoa.files import descriptor_of

WAIT_SECONDS = 0.5  # before a storage is asked again, and four times longer each time
_TRIES = 4
_MOST_OPEN = 64


class RangeReader:
    """Keeps files and connections open. Links out of the folder of a file are not followed: who made a store is not to
    name other files of this machine."""

    def __init__(self) -> None:
        self._owner = 0  # process that made the connections: they do not outlive a fork
        self._open: dict[str, tuple[int, tuple[int, int]]] = {}  # descriptor, and the file that it is of
        self._remote: dict[str, tuple[fsspec.AbstractFileSystem, str]] = {}

    def read(self, url: str, offset: int = 0, size: int | None = None) -> bytes:
        """Some bytes, fewer where the file ends, or all of them.

        Raises:
            OSError: the file is missing, none, or a link out of its folder; or the storage does not answer.
        """
        if "://" not in url:
            with reading_from_storage():
                return self._read_here(url, offset, size)
        if self._owner != os.getpid():
            self._owner, self._remote = os.getpid(), {}
        return _persistently(lambda: self._read_there(url, offset, size), url)

    def _read_here(self, path: str, offset: int, size: int | None) -> bytes:
        status = os.stat(path)
        descriptor, of_file = self._open.get(path, (-1, None))
        if of_file != (status.st_dev, status.st_ino):  # a store that is made anew has other files of these names
            self._close(path)
            descriptor = open_inside(path)
            while len(self._open) >= _MOST_OPEN:
                self._close(next(iter(self._open)))
            status = os.fstat(descriptor)
            self._open[path] = descriptor, (status.st_dev, status.st_ino)
        return os.pread(descriptor, os.fstat(descriptor).st_size - offset if size is None else size, offset)

    def _close(self, path: str) -> None:
        if path in self._open:
            os.close(self._open.pop(path)[0])

    def _read_there(self, url: str, offset: int, size: int | None) -> bytes:
        if url not in self._remote:
            self._remote[url] = fsspec.url_to_fs(url)
        files, path = self._remote[url]
        return files.cat_file(path) if size is None else files.cat_file(path, start=offset, end=offset + size)


def open_inside(path: str) -> int:
    """Open a file that lies in the folder that its path names.

    Raises:
        OSError: it is missing, none, or a link out of there.
    """
    if os.path.dirname(os.path.realpath(path)) != os.path.realpath(os.path.dirname(path)):
        raise OSError(errno.EXDEV, "it is a link out of its folder; copy it, or link the folder", path)
    return descriptor_of(path)


def _persistently(read: Callable[[], bytes], url: str) -> bytes:
    """A storage that does not answer is asked again: no clip is to blame for it.

    Raises:
        OSError: it did not answer, after four tries.
    """
    for attempt in range(_TRIES):
        try:
            with reading_from_storage():
                return read()
        except FileNotFoundError:
            raise
        except Exception as error:  # every file system has errors of its own
            reason = f"{type(error).__name__}: {error}"
        if attempt + 1 < _TRIES:
            time.sleep(WAIT_SECONDS * 4**attempt)
    failure = OSError(f"{url} could not be read, {_TRIES} times: {reason}")
    failure.errno = errno.ETIMEDOUT
    raise failure
