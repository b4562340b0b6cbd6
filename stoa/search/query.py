"""What an index finds for a text or a picture.

Shape legend: W windows, d joint width.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from stoa.api import Clip, Model
from stoa.search.index import FileState, Index, Vectors

SAME = 0.9999
"""Cosine of two windows that show the same: of a copy, of one in another container, of a scene that stands still."""


@dataclass(frozen=True, slots=True)
class Place:
    """A window of a video."""

    video: str
    start_seconds: float
    end_seconds: float


@dataclass(frozen=True, slots=True)
class Found:
    """A window that was found.

    Attributes:
        file: number of the video in the index.
        place: of the window.
        score: by which windows are ordered.
        cosine: with the query.
        match: probability that the text is of the window, by the matching head; None where it was not asked.
        confident: its cosine exceeds the index's threshold.
        also: where else the same is to be seen.
    """

    file: int
    place: Place
    score: float
    cosine: float
    match: float | None
    confident: bool
    also: tuple[Place, ...] = ()


@dataclass(frozen=True, slots=True)
class Held:
    """An index as it was read: its files by number, and its windows."""

    index: Index
    files: dict[int, FileState]
    vectors: Vectors


class Searcher:
    """An index in memory, for any number of questions.

    Args:
        index: to search in.
        model: whose index it is.

    Raises:
        ValueError: it holds no windows.
    """

    def __init__(self, index: Index, model: Model) -> None:
        self.model = model
        self.held = _read(index)

    @property
    def index(self) -> Index:
        return self.held.index

    @property
    def files(self) -> dict[int, FileState]:
        return self.held.files

    @property
    def vectors(self) -> Vectors:
        return self.held.vectors

    def renew(self) -> None:
        """Read the index again if a call of ``stoa index`` has ended since. One that is gone, cannot be read, holds
        nothing any more or is of another folder now stays what it was."""
        with contextlib.suppress(ValueError, OSError):
            now = self.index.finished_since()
            if now is not None:
                self.held = _read(now)

    def by_text(self, text: str, *, top_k: int = 5, rerank: int = 10) -> list[Found]:
        """The windows that fit a text best.

        Args:
            text: anything.
            top_k: how many.
            rerank: so many of the best by cosine are looked at again by the matching head, if the model has one; 0 is
                none.

        Raises:
            ValueError: the text is empty, or ``top_k`` less than 1.
        """
        if not text.strip():
            raise ValueError("the text is empty; say what to look for")
        _require_count(top_k)
        found = self._nearest(self.model.embed_text(text).numpy(), max(top_k, rerank))
        threshold = self.index.threshold
        found = [replace(hit, confident=threshold is not None and hit.cosine > threshold) for hit in found]
        if rerank and self.model.matches:
            found = self._reranked(text, found[:rerank]) + found[rerank:]
        return found[:top_k]

    def by_image(self, path: str | Path, *, top_k: int = 5) -> list[Found]:
        """The windows that look most like a picture, or like a video. No threshold is known for these, so all are
        confident.

        Raises:
            ValueError: it cannot be read, or ``top_k`` is less than 1.
        """
        _require_count(top_k)
        found = self._nearest(self.model.embed_video(str(path)).numpy(), top_k)
        return [replace(hit, confident=True) for hit in found]

    def clip(self, file: int, start_seconds: float | None = None, end_seconds: float | None = None) -> Clip:
        """A video of the index, or a part of it, with its objects.

        Raises:
            ValueError: no file has this number.
        """
        state = self.files.get(file)
        if state is None:
            raise ValueError(f"file {file} is not in the index")
        return self.clip_of(state, start_seconds, end_seconds)

    def clip_of(self, state: FileState, start_seconds: float | None = None, end_seconds: float | None = None) -> Clip:
        """As :meth:`clip`, of a video that was in the index, which may have been read again since."""
        return Clip(
            video=self.index.sources.videos / state.video,
            start_seconds=start_seconds,
            end_seconds=end_seconds,
            detections=self.index.sources.boxes_of(state.video),
        )

    def _nearest(self, query_d: np.ndarray, count: int) -> list[Found]:
        """The best windows, without those that repeat one of them."""
        held = self.held
        cosines_W = held.vectors.cosines(query_d)
        found: list[Found] = []
        chosen: list[int] = []
        for window in _descending(cosines_W):
            file = int(held.vectors.files_W[window])
            place = Place(held.files[file].video, *held.vectors.parts_W2[window].tolist())
            if any(hit.file == file and _overlap(hit.place, place) for hit in found):
                continue
            same = held.vectors.vectors_Wd[chosen] @ held.vectors.vectors_Wd[window] > SAME
            if same.any():
                first = int(same.argmax())
                found[first] = replace(found[first], also=(*found[first].also, place))
                continue
            if len(found) == count:
                break
            cosine = float(cosines_W[window])
            found.append(Found(file, place, cosine, cosine, None, False))
            chosen.append(window)
        return found

    def _reranked(self, text: str, found: Sequence[Found]) -> list[Found]:
        """In the order of the matching head, with the cosine's part in it. What has gone since, or cannot be read any
        more, is last."""
        clips = [self.clip(hit.file, hit.place.start_seconds, hit.place.end_seconds) for hit in found]
        there = [number for number, clip in enumerate(clips) if Path(str(clip.video)).is_file()]
        if not there:
            return list(found)
        try:
            hits = self.model.search(text, [clips[number] for number in there], top_k=len(there))
        except ValueError:
            there = [number for number in there if self._is_read(clips[number])]
            hits = self.model.search(text, [clips[number] for number in there], top_k=len(there)) if there else []
        ordered = []
        for hit in hits:
            old = found[there[hit.number]]
            ordered.append(replace(old, score=hit.score, match=hit.match))
        return ordered + [hit for number, hit in enumerate(found) if number not in there]

    def _is_read(self, clip: Clip) -> bool:
        try:
            self.model.encode(clip)
        except ValueError:
            return False
        return True


def _read(index: Index) -> Held:
    files, vectors = {file.number: file for file in index.files().values()}, index.vectors()
    if not len(vectors.files_W):
        raise ValueError(f"the index of {index.sources.videos} holds no windows; index a folder with videos")
    return Held(index, files, vectors)


def _require_count(top_k: int) -> None:
    if top_k < 1:
        raise ValueError(f"top_k is {top_k}; expected at least 1")


def _descending(cosines_W: np.ndarray) -> Iterator[int]:
    """Numbers of all windows, the best first; the first few hundred without sorting all."""
    first = min(512, len(cosines_W))
    best = np.argpartition(-cosines_W, first - 1)[:first]
    yield from best[np.argsort(-cosines_W[best], kind="stable")].tolist()
    if first < len(cosines_W):
        rest = np.argsort(-cosines_W, kind="stable")
        yield from rest[~np.isin(rest, best)].tolist()


def _overlap(one: Place, other: Place) -> bool:
    return one.start_seconds < other.end_seconds and other.start_seconds < one.end_seconds
