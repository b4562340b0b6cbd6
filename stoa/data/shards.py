"""Prepared clips in tar shards, read by random access.

A store is a folder, here or at a URL::

    store.json        version, kind, splits, settings, and of every shard its name, clips, bytes and SHA-256
    index.npy         of every clip its shard, byte offset, size and split
    ids.jsonl         of every clip its id
    captions.npy      of every clip how many captions it has
    000000.tar ...    WebDataset layout; the files of a clip lie together:
        00000012.json           row, duration_seconds, times_seconds, size_wh, and of a frame pack num_slots
        00000012.boxes.npz      detections, where there are any
        00000012.mp4            the video, or
        00000012.00.jpg ...     the frames

So one range read brings a clip, and the order of training is that of the one sampler.
"""

from __future__ import annotations

import errno
import hashlib
import io
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from stoa.data.clips import EncodedClip
from stoa.data.decoding.base import DecodeError
from stoa.data.decoding.findings import as_missing, attempt
from stoa.data.decoding.limits import require_content
from stoa.data.members import parse_clip, parse_row
from stoa.data.origin import Origin
from stoa.data.ranges import RangeReader
from stoa.fields import name_of
from stoa.files import OF_STORAGE
from stoa.manifest import Caption, ClipRow

STORE_VERSION = 2
STORE_FILE = "store.json"
INDEX_FILE = "index.npy"
IDS_FILE = "ids.jsonl"
CAPTIONS_FILE = "captions.npy"
INDEX_DTYPE = np.dtype([("shard", "<i4"), ("offset", "<i8"), ("size", "<i8"), ("split", "u1")])
# What a shard may be called: nothing that leads out of the folder, here or at a URL.
_SHARD_NAME = re.compile(r"\w[\w.-]*")
_FILES = RangeReader()


@dataclass(frozen=True, slots=True)
class MemberPlace:
    """A piece of a shard, by the shard's path or URL; ``where`` is it for messages."""

    shard: str
    offset: int
    size: int
    where: str

    def read(self) -> EncodedClip:
        return parse_clip(self.content(), self.where)

    def content(self) -> bytes:
        """The piece.

        Raises:
            DecodeError: the shard is missing, none, or ends before it does.
            OSError: the storage does not answer.
        """
        require_content(self.size)
        try:
            data = _FILES.read(self.shard, self.offset, self.size)
        except OSError as error:
            raise as_missing(error) from None
        if len(data) != self.size:
            raise DecodeError("truncated", f"shard ends within the clip, {len(data)} of {self.size} bytes")
        return data


class ShardClips:
    """Clips of one split of a store.

    Args:
        url: of the store's folder: a path, or a URL that fsspec knows.
        split: rows to use.

    Raises:
        ValueError: it is no store, of another version, its index does not fit, or the split is empty.
    """

    def __init__(self, url: str, split: str | None) -> None:
        self.url = url.rstrip("/")
        store = self._read_store()
        self._shards: list[str] = [shard["name"] for shard in store["shards"]]
        self._bytes: list[int] = [shard["bytes"] for shard in store["shards"]]
        self._splits: list[str] = list(store["splits"])
        index = self._read_index()
        if len(index) != store["clips"]:
            raise ValueError(f"{self._file(INDEX_FILE)} lists {len(index)} clips, {STORE_FILE} says {store['clips']}")
        self._index = index
        self._chosen = np.arange(len(index)) if split is None else self._of_split(split)
        self._sums = [shard["sha256"] for shard in store["shards"]]
        self._store = store
        self._split = split

    @property
    def kind(self) -> str:
        """``frames`` or ``video``."""
        return str(self._store["kind"])

    @property
    def left_out(self) -> int:
        """Clips of what it was made of, of all splits, that it lacks: without a caption, or not to be decoded."""
        return int(self._store["left_out"])

    @property
    def origin(self) -> Origin | None:
        """What it was made of; none where the store was made without saying so."""
        return Origin.from_json(self._store)

    @property
    def counts(self) -> Mapping[str, Any]:
        """What was counted when it was made; nothing where it was made without: see :mod:`stoa.prepare.pipeline`."""
        return self._store.get("counts", {})

    @property
    def shards(self) -> list[tuple[str, str]]:
        """Name and SHA-256 of each."""
        return list(zip(self._shards, self._sums, strict=True))

    def by_shard(self) -> tuple[list[np.ndarray], np.ndarray]:
        """Numbers in the store of the clips in each shard, and of those whose shard is none."""
        of_clips = self._index["shard"][self._chosen]
        there = (of_clips >= 0) & (of_clips < len(self._shards))
        sound = np.flatnonzero(there)
        order = sound[np.argsort(of_clips[sound], kind="stable")]
        counts = np.bincount(of_clips[sound], minlength=len(self._shards))
        return np.split(self._chosen[order], np.cumsum(counts)[:-1]), self._chosen[~there]

    @property
    def sizes(self) -> dict[str, int]:
        """Clips of each split."""
        return {name: int((self._index["split"] == number).sum()) for number, name in enumerate(self._splits)}

    @property
    def fingerprint(self) -> str:
        return hashlib.sha256(repr((self._sums, self._split)).encode()).hexdigest()

    def __len__(self) -> int:
        return len(self._chosen)

    def row(self, index: int) -> ClipRow:
        row: ClipRow = attempt(parse_row, self.place(index).content(), self.where(index))
        return row

    def name(self, index: int) -> str:
        entry = self._entry(index)
        return f"{self._shard(entry)} at byte {entry['offset']}"

    def where(self, index: int) -> str:
        return self._file(self.name(index))

    def place(self, index: int) -> MemberPlace:
        shard, offset, size, _ = (int(number) for number in self._entry(index))
        if not (0 <= shard < len(self._shards) and 0 <= offset < offset + size <= self._bytes[shard]):
            raise DecodeError(
                "corrupt", f"{INDEX_FILE} has {size} bytes at {offset} of shard {shard}, which {STORE_FILE} does not"
            )
        return MemberPlace(self._file(self._shards[shard]), offset, size, self.where(index))

    def ids(self) -> list[str]:
        path = self._file(IDS_FILE)
        try:
            ids = _content(path).splitlines()
        except FileNotFoundError:
            raise ValueError(f"{path} does not exist; run 'stoa prepare' again") from None
        if len(ids) != len(self._index):
            raise ValueError(f"{path} names {len(ids)} clips, {STORE_FILE} says {len(self._index)}")
        return [name_of(json.loads(ids[i]), "id", path) for i in self._chosen]

    def source(self, index: int) -> int:
        return index

    def texts(self, index: int, row: ClipRow) -> tuple[Caption, ...]:
        return row.captions

    def caption_counts(self) -> list[int]:
        path = self._file(CAPTIONS_FILE)
        try:
            counts = _array(path, "run 'stoa prepare' again as before, which makes it anew")
        except FileNotFoundError:  # of a store that was made without; its clips say so too, one by one
            return [len(self.row(index).captions) for index in range(len(self))]
        if counts.ndim != 1 or counts.dtype.kind not in "iu" or (counts.size and counts.min() < 0):
            raise ValueError(f"{path} is {counts.dtype} {counts.shape}; expected a count of captions for every clip")
        if len(counts) != len(self._index):
            raise ValueError(f"{path} is of {len(counts)} clips, {STORE_FILE} says {len(self._index)}")
        return counts[self._chosen].tolist()

    def used_token_ids(self) -> list[int]:
        of_split = self._store["token_ids"]
        return sorted({token for name in of_split if self._split in (None, name) for token in of_split[name]})

    def foreign_script_share(self) -> float:
        return float(self._store["foreign_script_share"])

    def has_boxes(self) -> bool:
        return bool(self._store.get("clips_with_boxes", True))  # a store made without the count may have some

    def _entry(self, index: int) -> Any:
        return self._index[self._chosen[index]]

    def _shard(self, entry: Any) -> str:
        number = int(entry["shard"])
        return self._shards[number] if 0 <= number < len(self._shards) else f"shard {number}"

    def _file(self, name: str) -> str:
        return f"{self.url}/{name}"

    def _read_store(self) -> dict[str, Any]:
        path = self._file(STORE_FILE)
        try:
            store = json.loads(_content(path))
        except FileNotFoundError:
            raise ValueError(
                f"{self.url} holds no {STORE_FILE}; pass a store that 'stoa prepare' has finished"
            ) from None
        except (ValueError, RecursionError) as error:
            raise ValueError(f"{path}: not valid JSON ({error})") from None
        version = store.get("version") if isinstance(store, dict) else None
        if version != STORE_VERSION:
            raise ValueError(f"{path} has version {version!r}; this reads {STORE_VERSION}: prepare anew")
        _require_fields(store, path, _FIELDS)
        for shard in store["shards"]:
            _require_fields(shard, path, _SHARD_FIELDS)
            if not _SHARD_NAME.fullmatch(shard["name"]):
                raise ValueError(f"{path} has a shard {shard['name']!r}; a shard is a file in the store's folder")
        return store

    def _read_index(self) -> np.ndarray:
        try:
            index = _array(self._file(INDEX_FILE), "run 'stoa prepare' again")
        except FileNotFoundError:
            raise ValueError(f"{self._file(INDEX_FILE)} does not exist; run 'stoa prepare' again") from None
        if index.dtype != INDEX_DTYPE or index.ndim != 1:
            raise ValueError(
                f"{self._file(INDEX_FILE)} is {index.dtype} {index.shape}; expected fields {INDEX_DTYPE.names} in a row"
            )
        return index

    def _of_split(self, split: str) -> np.ndarray:
        if split not in self._splits:
            raise ValueError(f"{self.url} has no split {split!r} (splits found: {sorted(self._splits)})")
        of_clips = self._index["split"]
        if of_clips.size and of_clips.max() >= len(self._splits):
            number = int(of_clips.argmax())
            raise ValueError(
                f"{self._file(INDEX_FILE)} has clip {number} in split {of_clips[number]} of {len(self._splits)}; copy "
                "the file again, or run 'stoa prepare' again"
            )
        return np.flatnonzero(of_clips == self._splits.index(split))


def is_store(path: str) -> bool:
    """Whether the data named so is a store: a URL, or a folder."""
    return "://" in path or Path(path).is_dir()


_FIELDS = {
    **{"kind": str, "clips": int, "left_out": int, "splits": list, "shards": list, "token_ids": dict},
    "foreign_script_share": (int, float),
}
_SHARD_FIELDS = {"name": str, "bytes": int, "sha256": str}


def _require_fields(found: Any, path: str, fields: Mapping[str, Any]) -> None:
    for name, kind in fields.items():
        if not isinstance(found, dict) or not isinstance(found.get(name), kind):
            value = found.get(name) if isinstance(found, dict) else found
            raise ValueError(f"{path}: {name!r} is {str(value)[:80]}; copy the file again, or run 'stoa prepare' again")


def _content(path: str) -> bytes:
    """A whole file of a store.

    Raises:
        ValueError: it is none, or a link out of its folder.
        FileNotFoundError: it is missing.
        OSError: the storage does not answer.
    """
    try:
        return _FILES.read(path)
    except FileNotFoundError:
        raise
    except OSError as error:
        if error.errno in {errno.EIO, *OF_STORAGE}:
            raise
        raise ValueError(f"{path}: {error.strerror}") from None


def _array(path: str, advice: str) -> np.ndarray:
    """Raises as :func:`_content` does, and ValueError with the advice where it is no array."""
    try:
        if "://" in path:
            return np.lib.format.read_array(io.BytesIO(_content(path)), allow_pickle=False)
        _FILES.read(path, 0, 1)  # whether it may be opened
        return np.lib.format.open_memmap(path, mode="r")  # shared by all processes of a machine
    except FileNotFoundError:
        raise
    except Exception as error:  # of a damaged header NumPy says much
        if isinstance(error, OSError) and error.errno in {errno.EIO, *OF_STORAGE}:
            raise
        reason = getattr(error, "strerror", None) or f"{error}"
        raise ValueError(f"{path}: {' '.join(reason.split())[:200]}; {advice}") from None
