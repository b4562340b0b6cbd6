"""Logs of one JSON object a line, of any length, whatever a kill or a disk has done to their lines since."""

from __future__ import annotations

import io
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

from stoa.files import open_regular

LONGEST_LINE_BYTES = 1 << 20


def open_log(path: Path) -> BinaryIO:
    """To read, buffered. Raises as :func:`stoa.files.descriptor_of` does."""
    return io.BufferedReader(open_regular(path), 1 << 16)


def size_of(file: BinaryIO) -> int:
    return os.fstat(file.fileno()).st_size


def log_lines(file: BinaryIO, size: int) -> Iterator[bytes]:
    """Lines of the first ``size`` bytes of a file, with their ends. Of one longer than 1 MiB, which no log of ours has,
    its beginning: a file without ends of lines is not held in memory."""
    file.seek(0)
    left = size
    while left > 0 and (line := file.readline(min(left, LONGEST_LINE_BYTES))):
        yield line
        left -= len(line)
        while left > 0 and not line.endswith(b"\n") and (line := file.readline(min(left, LONGEST_LINE_BYTES))):
            left -= len(line)


def is_damaged(line: bytes) -> bool:
    """Of a line that is no record: whether it is to be told; one that is empty, or a last one that a kill has cut short
    or that is being written, is not."""
    return line != b"\n" and (line.endswith(b"\n") or len(line) >= LONGEST_LINE_BYTES)


def object_in(line: bytes) -> dict[str, Any] | None:
    """The JSON object of a line; None where there is none."""
    try:
        value = json.loads(line)
    except (ValueError, RecursionError):  # that it is no UTF-8 is a ValueError too
        return None
    return value if isinstance(value, dict) else None
