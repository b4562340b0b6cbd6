"""Whatever goes wrong below a call on a clip is a finding about that clip, but for what no clip is to blame for."""

from __future__ import annotations

import errno
from collections.abc import Callable
from typing import Any

import av

from stoa.data.decoding.base import DecodeError
from stoa.files import OF_STORAGE

_OF_ROOM = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS}
_OF_MACHINE = {errno.EIO, *_OF_ROOM, *OF_STORAGE}


def attempt(function: Callable[..., Any], *arguments: Any) -> Any:
    """``function(*arguments)``, whose errors are findings.

    Raises:
        DecodeError: whatever the function, or a library below it, has raised.
        OSError: a storage does not answer, or a disk is full.
        ImportError: the installation lacks something.
    """
    try:
        return function(*arguments)
    except (DecodeError, ImportError):
        raise
    except Exception as error:
        raise as_finding(error) from None


def as_finding(error: Exception) -> DecodeError | OSError:
    """What an error says about the clip that it met: a finding, or an error of the machine."""
    if isinstance(error, DecodeError):
        return error
    if isinstance(error, av.FFmpegError):
        return as_decode_error(error)
    if isinstance(error, OSError) and error.errno in _OF_MACHINE:
        return error
    if isinstance(error, MemoryError):
        return DecodeError("limit", "reading it takes more memory than a clip may have")
    if isinstance(error, UnicodeDecodeError):  # PyAV reads names in it
        return DecodeError("unreadable", "PyAV: what should be text in its header is none")
    return DecodeError("corrupt", " ".join(f"{type(error).__name__}: {error}".split())[:300])


def as_missing(error: OSError | ValueError) -> DecodeError | OSError:
    """What an error says about the path that it met: a finding, or an error of the machine."""
    if isinstance(error, FileNotFoundError | NotADirectoryError):
        return DecodeError("missing", "file does not exist")
    if isinstance(error, ValueError):  # a zero byte in its name, or what no file system encodes
        return DecodeError("missing", f"file cannot be reached ({error})")
    if error.errno in {errno.EIO, *OF_STORAGE}:
        return error
    if error.errno in (errno.EINVAL, errno.EXDEV):  # said by us
        return DecodeError("missing", str(error.strerror))
    return DecodeError("missing", f"file cannot be reached ({error.strerror})")


def as_decode_error(error: av.FFmpegError) -> DecodeError | OSError:
    """FFmpeg's error by class: what cannot be opened is unreadable, what cannot be decoded is corrupt. For storage that
    does not answer, or has no room for what is written, no video is to blame."""
    if error.errno in {*OF_STORAGE, *_OF_ROOM}:
        return OSError(error.errno, error.strerror, error.filename)
    if error.errno == errno.ENOMEM:
        return as_finding(MemoryError())
    if isinstance(error, (av.error.DecoderNotFoundError, av.error.PatchWelcomeError)):
        return DecodeError("codec", f"PyAV: {error.strerror}")
    in_codec = "avcodec" in str(error)
    return DecodeError("corrupt" if in_codec else "unreadable", f"PyAV: {error.strerror}")
