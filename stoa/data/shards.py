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

import hashlib
import io
import json
import os
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import fsspec
import numpy as np

from stoa.data.clips import EncodedClip
from stoa.data.decoding.base import DecodeError
from stoa.data.media import FramePack, VideoMedia
from stoa.data.origin import Origin
from stoa.detections import Detections
from stoa.fields import name_of
from stoa.manifest import Caption, ClipRow, row_from_json

STORE_VERSION = 2
STORE_FILE = "store.json"
INDEX_FILE = "index.npy"
IDS_FILE = "ids.jsonl"
CAPTIONS_FILE = "captions.npy"
INDEX_DTYPE = np.dtype([("shard", "<i4"), ("offset", "<i8"), ("size", "<i8"), ("split", "u1")])
BLOCK = 512  # of a tar file
WAIT_SECONDS = 0.5  # before a storage is asked again, and four times longer each time
_TRIES = 4


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
        self._files = _RangeReader()
        store = self._read_store()
        self._shards: list[str] = [shard["name"] for shard in store["shards"]]
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
    def sizes(self) -> dict[str, int]:
        """Clips of each split."""
        return {name: int((self._index["split"] == number).sum()) for number, name in enumerate(self._splits)}

    @property
    def fingerprint(self) -> str:
        return hashlib.sha256(repr((self._sums, self._split)).encode()).hexdigest()

    def __len__(self) -> int:
        return len(self._chosen)

    def row(self, index: int) -> ClipRow:
        return self._row(index, json.loads(bytes(self._members(index)["json"])))

    def where(self, index: int) -> str:
        entry = self._entry(index)
        return f"{self._file(self._shards[entry['shard']])} at byte {entry['offset']}"

    def read(self, index: int) -> EncodedClip:
        try:
            return self._read_members(index, self._members(index))
        except (ArithmeticError, LookupError, MemoryError, TypeError) as error:  # what computing with damage brings
            raise DecodeError("corrupt", " ".join(f"{type(error).__name__}: {error}".split())[:200]) from None

    def _read_members(self, index: int, members: dict[str, memoryview]) -> EncodedClip:
        facts = json.loads(bytes(members.pop("json")))
        packed = members.pop("boxes.npz", None)
        detections = None if packed is None else Detections.load(io.BytesIO(packed))
        media: VideoMedia | FramePack
        if "mp4" in members:
            media = VideoMedia(bytes(members["mp4"]), vouched=True)
        else:
            jpegs = [bytes(members[name]) for name in sorted(members)]
            media = FramePack(jpegs, np.array(facts["times_seconds"]), facts["duration_seconds"], facts["num_slots"])
            if len(jpegs) != len(media.times_seconds):
                raise DecodeError("truncated", f"{len(jpegs)} frames of {len(media.times_seconds)}")
        return EncodedClip(self._row(index, facts), media, detections)

    def ids(self) -> list[str]:
        path = self._file(IDS_FILE)
        ids = self._files.read(path).splitlines()
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
            counts = np.load(io.BytesIO(self._files.read(path)), allow_pickle=False)
        except FileNotFoundError:  # of a store that was made without; its clips say so too, one by one
            return [len(self.row(index).captions) for index in range(len(self))]
        except (ValueError, EOFError) as error:
            raise ValueError(f"{path}: {error}; run 'stoa prepare' again as before, which makes it anew") from None
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

    def _row(self, index: int, facts: dict[str, Any]) -> ClipRow:
        return row_from_json(facts["row"], self.where(index))

    def _members(self, index: int) -> dict[str, memoryview]:
        entry = self._entry(index)
        data = self._files.read(self._file(self._shards[entry["shard"]]), int(entry["offset"]), int(entry["size"]))
        members = tar_members(data)
        if len(data) != entry["size"] or "json" not in members:
            raise DecodeError("truncated", f"shard ends within the clip, {len(data)} of {entry['size']} bytes")
        return members

    def _entry(self, index: int) -> Any:
        return self._index[self._chosen[index]]

    def _file(self, name: str) -> str:
        return f"{self.url}/{name}"

    def _read_store(self) -> dict[str, Any]:
        path = self._file(STORE_FILE)
        try:
            store = json.loads(self._files.read(path))
        except FileNotFoundError:
            raise ValueError(
                f"{self.url} holds no {STORE_FILE}; pass a store that 'stoa prepare' has finished"
            ) from None
        except ValueError as error:
            raise ValueError(f"{path}: not valid JSON ({error})") from None
        if store.get("version") != STORE_VERSION:
            raise ValueError(f"{path} has version {store.get('version')!r}; this reads {STORE_VERSION}: prepare anew")
        return store

    def _read_index(self) -> np.ndarray:
        path = self._file(INDEX_FILE)
        try:
            if os.path.isfile(path):
                index = np.load(path, mmap_mode="r", allow_pickle=False)  # shared by all processes of a machine
            else:
                index = np.load(io.BytesIO(self._files.read(path)), allow_pickle=False)
        except (ValueError, EOFError, FileNotFoundError) as error:
            raise ValueError(f"{path}: {error}; run 'stoa prepare' again") from None
        if index.dtype != INDEX_DTYPE:
            raise ValueError(f"{path} has fields {index.dtype.names}; expected {INDEX_DTYPE.names}")
        return index

    def _of_split(self, split: str) -> np.ndarray:
        if split not in self._splits:
            raise ValueError(f"{self.url} has no split {split!r} (splits found: {sorted(self._splits)})")
        return np.flatnonzero(self._index["split"] == self._splits.index(split))


def is_store(path: str) -> bool:
    """Whether the data named so is a store: a URL, or a folder."""
    return "://" in path or Path(path).is_dir()


def tar_members(data: bytes) -> dict[str, memoryview]:
    """Files in a piece of a USTAR archive, by what follows the first dot of their names. A cut one is left out."""
    view, members, at = memoryview(data), {}, 0
    while at + BLOCK <= len(data) and data[at] != 0:
        name = data[at : at + 100].split(b"\0", 1)[0].decode("ascii")
        size = int(data[at + 124 : at + 135], 8)
        at += BLOCK
        if at + size > len(data):
            break
        members[name.partition(".")[2]] = view[at : at + size]
        at += -(-size // BLOCK) * BLOCK
    return members


class _RangeReader:
    """Bytes of files here or at URLs."""

    def __init__(self) -> None:
        self._owner = 0  # process that made the connections: they do not outlive a fork
        self._open: dict[str, int] = {}
        self._remote: dict[str, tuple[fsspec.AbstractFileSystem, str]] = {}

    def __getstate__(self) -> dict[str, Any]:
        return {"_owner": 0, "_open": {}, "_remote": {}}

    def read(self, url: str, offset: int = 0, size: int | None = None) -> bytes:
        if "://" not in url:
            return self._read_here(url, offset, size)
        if self._owner != os.getpid():
            self._owner, self._remote = os.getpid(), {}
        return _persistently(lambda: self._read_there(url, offset, size), url)

    def _read_here(self, path: str, offset: int, size: int | None) -> bytes:
        if path not in self._open:
            if len(self._open) >= 64:
                os.close(self._open.pop(next(iter(self._open))))
            self._open[path] = os.open(path, os.O_RDONLY)
        descriptor = self._open[path]
        return os.pread(descriptor, os.fstat(descriptor).st_size - offset if size is None else size, offset)

    def _read_there(self, url: str, offset: int, size: int | None) -> bytes:
        if url not in self._remote:
            self._remote[url] = fsspec.url_to_fs(url)
        files, path = self._remote[url]
        return files.cat_file(path) if size is None else files.cat_file(path, start=offset, end=offset + size)


def _persistently(read: Callable[[], bytes], url: str) -> bytes:
    """A storage that does not answer is asked again: no clip is to blame for it.

    Raises:
        OSError: it did not answer, after four tries.
    """
    for attempt in range(_TRIES):
        try:
            return read()
        except FileNotFoundError:
            raise
        except Exception as error:  # every file system has errors of its own
            reason = f"{type(error).__name__}: {error}"
        if attempt + 1 < _TRIES:
            time.sleep(WAIT_SECONDS * 4**attempt)
    raise OSError(f"{url} could not be read, {_TRIES} times: {reason}")
