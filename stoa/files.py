"""Files that are whole or not there, their sums, and what a disk that refuses them is told as."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import io
import os
import re
import shutil
import stat
import uuid
import zlib
from collections.abc import Iterator
from pathlib import Path

OF_STORAGE = {
    *(errno.ESTALE, errno.ETIMEDOUT, errno.ENOTCONN, errno.EHOSTDOWN, errno.EHOSTUNREACH),
    *(errno.EMFILE, errno.ENFILE),
}
"""Errors for which no file is to blame. Of the system itself EIO is one too; FFmpeg says it of damaged files."""

TEMPORARY = ".tmp"
"""How the names of files that are being written end."""

_OF_ROOM = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
# Libraries tell of a disk that refuses in words of their own.
_OF_WRITING = re.compile(r"PytorchStreamWriter|unexpected pos|inline_container|iostream error|basic_ios")
_PROBE_BYTES = 1 << 20
_SMALL_BYTES = 1 << 26


class StorageError(OSError):
    """A file cannot be written; the message names it, why, and what is free."""


class DiskFull(StorageError):
    """There is no room for it."""


def sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()


def open_regular(path: str | os.PathLike[str]) -> io.FileIO:
    """A file to read, unbuffered. Raises as :func:`descriptor_of` does."""
    return io.FileIO(descriptor_of(path))


def descriptor_of(path: str | os.PathLike[str]) -> int:
    """A file opened to read. What is none is not opened: a pipe would wait for a writer for ever.

    Raises:
        OSError: it cannot be reached, or is a folder, pipe, socket or device.
    """
    _require_regular(os.stat(path), path)
    return _opened(path, os.O_RDONLY | os.O_NONBLOCK)  # it may have become a pipe


def read_small(path: str | os.PathLike[str], most: int = _SMALL_BYTES) -> bytes:
    """A file of facts, whole.

    Raises:
        ValueError: it is larger than such a file can be.
        OSError: as :func:`descriptor_of` does.
    """
    with open_regular(path) as file:
        size = os.fstat(file.fileno()).st_size
        if size > most:
            raise ValueError(f"it has {size:,} bytes; no more than {most:,} are read")
        return file.read()


def descriptor_to_append(path: str | os.PathLike[str]) -> int:
    """A file to write to, made if it is not there, and to read. A link is not followed: in a folder from elsewhere it
    may lead anywhere.

    Raises:
        OSError: it is a link, or no file, or cannot be written.
    """
    flags = os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    try:
        return _opened(path, flags)
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise OSError(errno.ELOOP, "it is a link", os.fspath(path)) from None
        raise


def _opened(path: str | os.PathLike[str], flags: int) -> int:
    """What is no file is closed again."""
    descriptor = os.open(path, flags, 0o666)
    try:
        _require_regular(os.fstat(descriptor), path)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def _require_regular(status: os.stat_result, path: str | os.PathLike[str]) -> None:
    if not stat.S_ISREG(status.st_mode):
        raise OSError(errno.EINVAL, "it is not a file", os.fspath(path))


def fsync(path: Path) -> None:
    """Flush a file, or the entries of a folder, to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def temporary_of(path: Path) -> Path:
    """A name beside ``path`` that no other process has, for what is to become ``path``."""
    return path.with_name(f".{_short(path.name)}.{os.getpid()}-{uuid.uuid4().hex[:8]}{TEMPORARY}")


def remove_temporaries(folder: Path, *names: str) -> None:
    """Delete what killed writers of these files of a folder, or of all, have left; for who alone may write them."""
    of_names = "|".join(re.escape(_short(name)) for name in names) if names else ".*"
    for path in folder.iterdir():
        if re.fullmatch(rf"\.({of_names})\.\d+-[0-9a-f]{{8}}{re.escape(TEMPORARY)}", path.name):
            path.unlink(missing_ok=True)


def _short(name: str) -> str:
    """File systems allow 255 bytes."""
    return name if len(name) <= 40 else f"{name[:32]}{zlib.crc32(name.encode(errors='surrogateescape')):08x}"


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary name to write to; at the end of the block the file is flushed and replaces ``path`` in one step.

    It has the mode of any new file, whatever wrote it. After an error nothing of it stays.

    Raises:
        StorageError: the disk refuses.
    """
    temporary = temporary_of(path)
    with writing(path):
        try:
            with open(temporary, "xb") as file:
                mode = os.fstat(file.fileno()).st_mode & 0o777
            yield temporary
            if temporary.stat().st_mode & 0o777 != mode:  # safetensors makes files that only their owner may read
                temporary.chmod(mode)
            fsync(temporary)
            os.replace(temporary, path)
        except BaseException:
            with contextlib.suppress(OSError):
                temporary.unlink(missing_ok=True)
            raise


def write_whole(path: Path, text: str) -> None:
    """Replace a text file in one step."""
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


@contextlib.contextmanager
def writing(path: Path, *, needed: int | None = None, then: str = "") -> Iterator[None]:
    """What a disk that refuses ``path`` raises in the block, by whatever library, is told in one line.

    Args:
        path: what is written.
        needed: bytes that it takes, if that is known.
        then: what to do about it, or what is left.

    Raises:
        StorageError: names the path, the reason, and where space is short (:class:`DiskFull`) what is free.
    """
    try:
        yield
    except StorageError as error:
        if then and then not in str(error):  # of what is written on the way to it
            told = type(error)(f"{error}; {then}")
            told.errno = error.errno
            raise told from error
        raise
    except Exception as error:
        number, why = _why_refused(error, path)
        if number is None:
            raise
        raise storage_error(path, number, why, needed=needed, then=then) from error


def storage_error(path: Path, number: int, why: str, *, needed: int | None = None, then: str = "") -> StorageError:
    """The error that names a path, why it is refused, what it needs and what is free."""
    room, kind = "", DiskFull if number in _OF_ROOM else StorageError
    if kind is DiskFull:
        wanted = "" if needed is None else f"{in_units(needed)} needed, "
        room = f" ({wanted}{in_units(free_bytes(path))} free)"
    error = kind(f"{path} cannot be written: {why}{room}{f'; {then}' if then else ''}")
    error.errno = number
    return error


def tells_of_room(error: BaseException) -> bool:
    """Whether a disk is full, or a quota used up."""
    return isinstance(error, DiskFull) or (isinstance(error, OSError) and error.errno in _OF_ROOM)


def free_bytes(path: Path) -> int:
    """Space left where ``path`` is, or will be."""
    return shutil.disk_usage(_there(path)).free


def bytes_of(folder: Path) -> int:
    """What the files of a folder hold."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def in_units(size: int) -> str:
    """``3.2 MiB``."""
    number, unit = float(size), "bytes"
    for bigger in ("KiB", "MiB", "GiB", "TiB"):
        if number < 1024:
            break
        number, unit = number / 1024, bigger
    return f"{number:.0f} {unit}" if unit == "bytes" else f"{number:.1f} {unit}"


def require_writable(folder: Path, option: str) -> None:
    """Find out before the work whether its results can be written, by doing it: of root's and of NFS's permissions the
    system does not tell the truth.

    Args:
        folder: to write to; it need not exist.
        option: that names it, for the message.

    Raises:
        ValueError: it is a file, or below one.
        StorageError: it cannot be written to.
    """
    with making(folder, option):
        probe = temporary_of(folder / "probe")
        try:
            with writing(folder, then=f"choose another {option}"):
                _try_to_write(probe, 4096)
        finally:
            with contextlib.suppress(OSError):
                probe.unlink(missing_ok=True)


@contextlib.contextmanager
def making(folder: Path, option: str) -> Iterator[None]:
    """Make a folder; those that were not there and are still empty at the end are removed.

    Raises:
        ValueError: it is a file, or below one.
        StorageError: it cannot be made.
    """
    made: list[Path] = []
    try:
        with writing(folder, then=f"choose another {option}"):
            for place in reversed((folder, *folder.parents)):
                if not os.path.isdir(place):
                    _make(place, made)
        yield
    except _IsFile as error:
        which = "which" if str(error) == str(folder) else f"and {error}"
        raise ValueError(f"{option} is {folder}, {which} is a file; pass a folder") from None
    finally:
        for place in reversed(made):
            with contextlib.suppress(OSError):
                place.rmdir()


class _IsFile(Exception):
    pass


def _make(place: Path, made: list[Path]) -> None:
    try:
        place.mkdir()
        made.append(place)
    except FileExistsError:  # by now: somebody else makes it as well
        if not os.path.isdir(place):
            raise _IsFile(place) from None


def _there(path: Path) -> Path:
    """The path, or the nearest folder above it that exists."""
    return next(p for p in (path.absolute(), *path.absolute().parents) if os.path.exists(p))


def _try_to_write(path: Path, size: int) -> None:
    with open(path, "xb") as file:
        file.write(bytes(size))
        file.flush()
        os.fsync(file.fileno())


def _why_refused(error: Exception, path: Path) -> tuple[int | None, str]:
    """(number, words) of the system's error behind this one; (None, "") where no disk is to blame."""
    if isinstance(error, OSError) and error.errno is not None:
        return error.errno, error.strerror or os.strerror(error.errno)
    of_rust = re.search(r"\b(?:os error|code:) (\d+)", str(error))
    if of_rust is not None:
        return int(of_rust[1]), os.strerror(int(of_rust[1]))
    if not isinstance(error, OSError) and _OF_WRITING.search(str(error)) is None:
        return None, ""
    # Neither NumPy nor torch tells the number; what the disk says to another file is as good.
    probe = temporary_of(_there(path.parent) / path.name)
    try:
        _try_to_write(probe, _PROBE_BYTES)
    except OSError as found:
        if found.errno is not None:
            return found.errno, os.strerror(found.errno)
    finally:
        with contextlib.suppress(OSError):
            probe.unlink(missing_ok=True)
    return errno.EIO, " ".join(str(error).split())[:200]
