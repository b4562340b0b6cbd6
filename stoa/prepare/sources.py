"""The files that a check goes over: those of a manifest, of a folder, or of a store."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Protocol

import fsspec
import numpy as np

from stoa.data.decoding.base import DecodeError
from stoa.data.decoding.findings import as_missing
from stoa.data.decoding.guard import Guard
from stoa.data.ranges import open_inside
from stoa.data.shards import INDEX_FILE, ShardClips
from stoa.data.video_files import video_files
from stoa.manifest import ClipRow
from stoa.prepare.adapters import open_annotations
from stoa.prepare.adapters.seen import SeenIds
from stoa.prepare.examine import examine_boxes, examine_clip, examine_video
from stoa.prepare.verdicts import PartSeconds, Verdict
from stoa.text_files import on_disk

_CHUNK = 1 << 20


class File(Protocol):
    """A file to check."""

    @property
    def name(self) -> str:
        """Its path from the folder of the data."""
        ...

    def state(self) -> tuple[int | None, float | None]:
        """Its bytes and when it was last changed, None where its file system does not tell."""
        ...

    @property
    def split(self) -> str | None:
        """Whose clips are looked at, of a file that holds several; None is all."""
        ...

    @property
    def part(self) -> PartSeconds | None:
        """Of the video, where that alone is looked at."""
        ...

    def examine(self, guard: Guard) -> list[Verdict]:
        """The verdict on the file, and after it those on single clips in it that are bad.

        Raises:
            OSError: the storage does not answer.
        """
        ...


class Source(Protocol):
    """A data set. ``total`` counts its files, and ``counted`` says what it counts."""

    total: int
    counted: str

    def files(self) -> Iterator[File]:
        """Each file, and each part of one that is a clip, once."""
        ...


def open_source(data: str, split: str | None) -> Source:
    """The data set that a path or URL names.

    Raises:
        ValueError: there is none, it is malformed, or it has nothing of this split.
    """
    path = Path(data)
    if "://" in data or (path / "store.json").exists():
        return StoreFiles(data, split)
    if path.is_dir():
        if split is not None:
            raise ValueError(
                f"--split {split!r} means nothing for {data}, a folder of videos; pass a manifest or store"
            )
        return FolderFiles(path)
    return ManifestFiles(path, split)


@dataclass(frozen=True, slots=True)
class LocalFile:
    """A file that one function examines, given its name and its path."""

    name: str
    path: str
    function: Callable[[str, str], Verdict]
    split: None = None
    part: None = None

    def state(self) -> tuple[int | None, float | None]:
        return file_state(self.path)

    def examine(self, guard: Guard) -> list[Verdict]:
        try:
            return [guard.call(self.function, self.name, self.path)]
        except DecodeError as error:
            return [Verdict(path=self.name, error=error.kind, reason=str(error))]


@dataclass(frozen=True, slots=True)
class LocalPart:
    """The part of a video that a row of a manifest names; ``clip`` is its id."""

    name: str
    path: str
    part: PartSeconds
    clip: str
    split: None = None

    def state(self) -> tuple[int | None, float | None]:
        return file_state(self.path)

    def examine(self, guard: Guard) -> list[Verdict]:
        try:
            return [guard.call(examine_video, self.name, self.path, self.part, self.clip)]
        except DecodeError as error:
            return [Verdict(path=self.name, clip=self.clip, part=self.part, error=error.kind, reason=str(error))]


def file_state(path: str) -> tuple[int | None, float | None]:
    """Bytes and time of the last change, None where it cannot be reached."""
    try:
        status = os.stat(path)
    except (OSError, ValueError):
        return None, None
    return status.st_size, status.st_mtime


class FolderFiles:
    """The videos below a folder, known by their suffixes; links are followed.

    Raises:
        ValueError: there is none, or a folder cannot be read.
    """

    counted = "files"

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.total = sum(1 for _ in self.files())
        if not self.total:
            raise ValueError(
                f"{folder} holds no video and no store.json; pass a manifest, a folder of videos or a store"
            )

    def files(self) -> Iterator[File]:
        for name, path in video_files(self.folder):
            yield LocalFile(name, path, examine_video)


class ManifestFiles:
    """The videos and detections that the rows of a manifest name. Rows are read anew each time they are gone over.

    Raises:
        ValueError: a row is malformed, ids repeat, or nothing is left.
    """

    def __init__(self, path: Path, split: str | None) -> None:
        self._root = path.parent
        self._annotations = open_annotations("manifest", path)
        self._split = split
        self.total, parts = 0, False
        for file in self.files():
            self.total += 1
            parts = parts or file.part is not None
        self.counted = "files and parts of files" if parts else "files"
        if not self.total:
            splits = {row.split for row in self._annotations.clips()}
            wanted = f" with split {split!r} (splits found: {sorted(splits)})" if split is not None else ""
            raise ValueError(f"manifest {path} has no usable row{wanted}")

    def files(self) -> Iterator[File]:
        seen = SeenIds()
        for row in self._rows():
            part, path = (row.start_seconds, row.end_seconds), str(on_disk(self._root / row.video))
            if seen.add(row.video if part == (None, None) else json.dumps([row.video, part])):
                whole = part == (None, None)
                yield LocalFile(row.video, path, examine_video) if whole else LocalPart(row.video, path, part, row.id)
            if row.detections is not None and seen.add(row.detections):
                yield LocalFile(row.detections, str(on_disk(self._root / row.detections)), examine_boxes)

    def _rows(self) -> Iterator[ClipRow]:
        return (row for row in self._annotations.clips() if self._split is None or row.split == self._split)


class StoreFiles:
    """The shards of a store.

    Raises:
        ValueError: it is no store, or it has no clip of this split.
    """

    counted = "files"

    def __init__(self, url: str, split: str | None) -> None:
        clips = ShardClips(url, split)
        self._url, self._split, self._shards = clips.url, split, clips.shards
        self._numbers, self._astray = clips.by_shard()
        self.total = len(self._shards) + bool(len(self._astray))

    def files(self) -> Iterator[File]:
        for (name, sha256), numbers in zip(self._shards, self._numbers, strict=True):
            yield Shard(name, self._url, sha256, numbers, self._split)
        if len(self._astray):
            yield Shard(INDEX_FILE, self._url, None, self._astray, self._split)


@dataclass(frozen=True, slots=True)
class Shard:
    """A tar file of a store, or its index with the clips that are in none; ``numbers`` are those of the clips to
    decode."""

    name: str
    store: str
    sha256: str | None
    numbers: np.ndarray
    split: str | None
    part: None = None

    def state(self) -> tuple[int | None, float | None]:
        with _answering(f"{self.store}/{self.name}") as (files, path):
            try:
                size = files.size(path)
            except FileNotFoundError:
                return None, None
            try:
                return size, files.modified(path).timestamp()
            except NotImplementedError:
                return size, None

    def examine(self, guard: Guard) -> list[Verdict]:
        try:
            whole = self._examine_sum()
        except DecodeError as error:
            return [Verdict(path=self.name, error=error.kind, reason=str(error))]
        found = (self._examine_clip(guard, int(number)) for number in self.numbers)
        return [whole, *(verdict for verdict in found if verdict.error is not None or verdict.notes)]

    def _examine_sum(self) -> Verdict:
        if self.sha256 is None:
            return Verdict(path=self.name)
        digest = hashlib.sha256()
        try:
            with self._opened() as file:
                while chunk := file.read(_CHUNK):
                    digest.update(chunk)
        except OSError as error:
            raise as_missing(error) from None
        if digest.hexdigest() == self.sha256:
            return Verdict(path=self.name)
        reason = f"SHA-256 is {digest.hexdigest()[:12]}..., store.json says {self.sha256[:12]}...; copy the shard again"
        return Verdict(path=self.name, error="sum", reason=reason)

    @contextmanager
    def _opened(self) -> Iterator[BinaryIO]:
        url = f"{self.store}/{self.name}"
        if "://" not in url:
            with open(open_inside(url), "rb") as here:
                yield here
        else:
            with _answering(url) as (files, path), files.open(path, "rb") as there:
                yield there

    def _examine_clip(self, guard: Guard, number: int) -> Verdict:
        try:
            return guard.call(examine_clip, self.name, self.store, number)
        except DecodeError as error:
            return Verdict(path=self.name, clip=f"number {number}", error=error.kind, reason=str(error))


@contextmanager
def _answering(url: str) -> Iterator[tuple[fsspec.AbstractFileSystem, str]]:
    """The file system of a URL and the path there. Each has errors of its own, which become OSError."""
    try:
        yield fsspec.url_to_fs(url)
    except OSError:
        raise
    except Exception as error:
        raise OSError(f"{url} could not be read ({type(error).__name__}: {error})") from None
