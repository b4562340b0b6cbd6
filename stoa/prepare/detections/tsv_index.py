"""Rows of a TSV file by video. The file may be larger than memory: one pass notes where the rows begin."""

from __future__ import annotations

import hashlib
from array import array
from codecs import BOM_UTF8
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

from stoa.prepare.detections.keys import KeyPattern
from stoa.text_files import decode, nfc


class TsvRow(NamedTuple):
    """A row; ``fields`` are those after the key."""

    key: str
    seconds: float
    fields: list[bytes]


class TsvIndex:
    """Where the rows of each video are: 16 bytes of memory a row.

    Args:
        path: of a TSV file whose first column is a key that ``keys`` matches.
        on_drop: called with (key, reason) for each row whose key it does not match.

    Raises:
        ValueError: no row has such a key.
    """

    def __init__(self, path: Path, keys: KeyPattern, on_drop: Callable[[str, str], None]) -> None:
        self.path = path
        self._keys = keys
        hashes, offsets = array("Q"), array("Q")
        offset, example = 0, ""
        with open(path, "rb") as file:
            for line in file:
                if not offset:
                    decode(line[:4].ljust(4), f"detections {path}")  # says if it is UTF-16
                # A hash and not the name: names of millions of videos would fill the memory.
                if line.strip():
                    key = _key(line)
                    parsed = keys.parse(key)
                    if parsed is None:
                        example = example or key
                        on_drop(key, f"{path}: pattern {keys.pattern!r} does not match this key")
                    else:
                        hashes.append(_hash(parsed.video))
                        offsets.append(offset)
                offset += len(line)
        if not offsets:
            raise ValueError(
                f"detections {path}: no row has a key that pattern {keys.pattern!r} matches"
                + (f" (the first is {example!r}); pass another pattern" if example else "; the file is empty")
            )
        keys.require_first_frame(f"detections {path}: frame numbers of its keys")
        order = np.argsort(np.frombuffer(hashes, dtype=np.uint64), kind="stable")
        self._hashes = np.frombuffer(hashes, dtype=np.uint64)[order]
        self._offsets = np.frombuffer(offsets, dtype=np.uint64)[order]

    def __len__(self) -> int:
        return len(self._offsets)

    def some_videos(self, most: int) -> list[str]:
        """Videos that stand here and there in the file."""
        out = []
        with open(self.path, "rb") as file:
            for offset in np.sort(self._offsets)[:: -(-len(self) // most)].tolist():
                file.seek(offset)
                parsed = self._keys.parse(_key(file.readline()))
                out += [] if parsed is None else [parsed.video]
        return list(dict.fromkeys(out))

    def rows(self, video: str) -> Iterator[TsvRow]:
        """The rows of a video in the order of the file."""
        wanted = np.uint64(_hash(video))
        first, end = np.searchsorted(self._hashes, wanted, "left"), np.searchsorted(self._hashes, wanted, "right")
        if first == end:
            return
        with open(self.path, "rb") as file:
            for offset in self._offsets[first:end].tolist():
                file.seek(offset)
                line = file.readline()
                parsed = self._keys.parse(_key(line))
                if parsed is not None and parsed.video == video:
                    yield TsvRow(_key(line), parsed.seconds, line.rstrip(b"\r\n").split(b"\t")[1:])


def first_row(path: Path) -> list[bytes]:
    """The fields of the first row.

    Raises:
        ValueError: the file is empty.
    """
    with open(path, "rb") as file:
        for line in file:
            if line.strip():
                return line.removeprefix(BOM_UTF8).rstrip(b"\r\n").split(b"\t")
    raise ValueError(f"detections {path}: the file is empty")


def _key(line: bytes) -> str:
    key = line.partition(b"\t")[0].removeprefix(BOM_UTF8).strip()
    return nfc(key.decode("utf-8", errors="backslashreplace"))


def _hash(video: str) -> int:
    return int.from_bytes(hashlib.blake2b(video.encode(), digest_size=8).digest(), "little")
