"""Clips to train on, by number: those of a manifest, or (:mod:`stoa.data.shards`) of prepared shards."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, NamedTuple, Protocol

from stoa.data.decoding.base import DecodeError
from stoa.data.media import FramePack, VideoMedia
from stoa.data.text import foreign_script_share, used_token_ids
from stoa.detections import Detections
from stoa.manifest import Caption, ClipRow, RowCounts
from stoa.text_files import on_disk


class EncodedClip(NamedTuple):
    """A clip as it is stored. The times of ``detections`` count from where those of ``media`` do."""

    row: ClipRow
    media: VideoMedia | FramePack
    detections: Detections | None


class ClipPlace(Protocol):
    """Where a clip lies; sent to the process that is to read it."""

    def read(self) -> EncodedClip:
        """Everything of the clip. On damaged files it may raise anything; see
        :func:`stoa.data.decoding.findings.attempt`."""
        ...


@dataclass(frozen=True, slots=True)
class FilePlace:
    """The video and the detections of a row of a manifest, by their paths."""

    row: ClipRow
    video: str
    detections: str | None

    def read(self) -> EncodedClip:
        media = VideoMedia(self.video, self.row.start_seconds, self.row.end_seconds)
        return EncodedClip(self.row, media, None if self.detections is None else read_boxes(self.detections))


def read_boxes(file: str | BinaryIO) -> Detections:
    """A file of detections, or the content of one.

    Raises:
        DecodeError: it is damaged.
        OSError: the storage does not answer.
    """
    try:
        return Detections.load(file)
    except ValueError as error:
        raise DecodeError("boxes", " ".join(str(error).split())[:300]) from None


class Clips(Protocol):
    """Clips of one split."""

    @property
    def fingerprint(self) -> str:
        """Hash of the clips and captions, in order: a saved position holds for the same ones only."""
        ...

    def __len__(self) -> int: ...

    def row(self, index: int) -> ClipRow:
        """Id, captions and origin.

        Raises:
            DecodeError, ValueError: it is damaged.
            OSError: the storage does not answer.
        """
        ...

    def where(self, index: int) -> str:
        """The file that holds it, for messages."""
        ...

    def name(self, index: int) -> str:
        """What tells it from others without its being read: an id, or a place in a store."""
        ...

    def place(self, index: int) -> ClipPlace:
        """Where to read it.

        Raises:
            DecodeError: the index of a store is damaged here.
        """
        ...

    def ids(self) -> list[str]:
        """Id of every clip, in order."""
        ...

    def source(self, index: int) -> int:
        """Which of those with the same frames to decode: equal numbers, equal frames and boxes."""
        ...

    def texts(self, index: int, row: ClipRow) -> tuple[Caption, ...]:
        """Captions, or what stands in their place, of a clip whose row has been read."""
        ...

    def caption_counts(self) -> Sequence[int]:
        """How many captions every clip has, in order.

        Raises:
            ValueError: a store's list of them is damaged.
        """
        ...

    def used_token_ids(self) -> list[int]:
        """Sorted ids of all tokens in the captions."""
        ...

    def foreign_script_share(self) -> float:
        """Share of captions that are mostly in a non-Latin script."""
        ...

    def has_boxes(self) -> bool:
        """Whether any clip of the manifest's split, or of the whole store, has detections."""
        ...


class FileClips:
    """Clips of a manifest, each a video file.

    Args:
        rows: of the manifest.
        root: folder the rows' paths are relative to.
        left_out: rows of the manifest's split that are not among them, as they have no caption.
        counts: of all rows of the manifest.
    """

    def __init__(
        self, rows: Sequence[ClipRow], root: Path, *, left_out: int = 0, counts: RowCounts | None = None
    ) -> None:
        self.rows = rows
        self.root = root
        self.left_out = left_out
        self.counts = RowCounts(Counter(row.split for row in rows)) if counts is None else counts

    @property
    def fingerprint(self) -> str:
        digest = hashlib.sha256()
        for row in self.rows:
            digest.update(repr((row.id, row.video, [caption.text for caption in row.captions])).encode())
            part = row.start_seconds, row.end_seconds, row.detections
            if any(value is not None for value in part):
                digest.update(repr(part).encode())
        return digest.hexdigest()

    def __len__(self) -> int:
        return len(self.rows)

    def row(self, index: int) -> ClipRow:
        return self.rows[index]

    def where(self, index: int) -> str:
        return str(on_disk(self.root / self.rows[index].video))

    def name(self, index: int) -> str:
        return self.rows[index].id

    def place(self, index: int) -> FilePlace:
        row = self.rows[index]
        boxes = None if row.detections is None else str(on_disk(self.root / row.detections))
        return FilePlace(row, self.where(index), boxes)

    def ids(self) -> list[str]:
        return [row.id for row in self.rows]

    def source(self, index: int) -> int:
        return index

    def texts(self, index: int, row: ClipRow) -> tuple[Caption, ...]:
        return row.captions

    def caption_counts(self) -> list[int]:
        return [len(row.captions) for row in self.rows]

    def used_token_ids(self) -> list[int]:
        return used_token_ids(caption for row in self.rows for caption in row.captions)

    def foreign_script_share(self) -> float:
        return foreign_script_share([caption for row in self.rows for caption in row.captions])

    def has_boxes(self) -> bool:
        return any(row.detections is not None for row in self.rows)


class SomeClips:
    """Some of other clips, in the order given.

    Args:
        clips: the whole.
        indices: of those to take; one may be taken more than once.
    """

    def __init__(self, clips: Clips, indices: Sequence[int]) -> None:
        self._clips = clips
        self._indices = list(indices)

    @property
    def fingerprint(self) -> str:
        return hashlib.sha256(repr((self._clips.fingerprint, self._indices)).encode()).hexdigest()

    def __len__(self) -> int:
        return len(self._indices)

    def ids(self) -> list[str]:
        ids = self._clips.ids()
        return [ids[index] for index in self._indices]

    def row(self, index: int) -> ClipRow:
        return self._clips.row(self._indices[index])

    def where(self, index: int) -> str:
        return self._clips.where(self._indices[index])

    def name(self, index: int) -> str:
        return self._clips.name(self._indices[index])

    def place(self, index: int) -> ClipPlace:
        return self._clips.place(self._indices[index])

    def source(self, index: int) -> int:
        return self._clips.source(self._indices[index])

    def texts(self, index: int, row: ClipRow) -> tuple[Caption, ...]:
        return self._clips.texts(self._indices[index], row)

    def caption_counts(self) -> list[int]:
        counts = self._clips.caption_counts()
        return [counts[index] for index in self._indices]

    def used_token_ids(self) -> list[int]:
        return self._clips.used_token_ids()

    def foreign_script_share(self) -> float:
        return self._clips.foreign_script_share()

    def has_boxes(self) -> bool:
        return self._clips.has_boxes()


class CaptionClips(SomeClips):
    """A clip for every caption, so that all are seen in an epoch.

    Args:
        clips: with their captions; those without any are left out.
    """

    def __init__(self, clips: Clips) -> None:
        counts = clips.caption_counts()
        super().__init__(clips, [index for index, count in enumerate(counts) for _ in range(count)])
        self._numbers = [number for count in counts for number in range(count)]

    def texts(self, index: int, row: ClipRow) -> tuple[Caption, ...]:
        return (super().texts(index, row)[self._numbers[index]],)

    def caption_counts(self) -> list[int]:
        return [1] * len(self)
