"""What an adapter returns, and how its rows become clips whose videos exist."""

from __future__ import annotations

import html
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from stoa.data.origin import Origin
from stoa.data.published import Count
from stoa.manifest import Caption, ClipRow, composed
from stoa.prepare.adapters.seen import SeenIds
from stoa.prepare.adapters.videos import VideoFolder
from stoa.questions import QuestionRow
from stoa.text_files import nfc

Clips = Iterator[tuple[str, ClipRow]]
Questions = Iterator[tuple[str, QuestionRow]]
"""Rows, each with the place it stands in: file and line."""

OnSkip = Callable[[str, str], None]
"""Called with (id, reason) for what is left out."""


@dataclass(frozen=True)
class Annotations:
    """The annotations of one data set, read anew each time they are gone over.

    Attributes:
        dataset: its name.
        clip_rows: opens the clips. ``video`` holds the name the video is published under, without suffix.
        question_rows: opens the questions, where the data set has some. Its clips then need no captions.
        published: how much of each split was published.
        paragraph: a clip's captions are the sentences of one, in order.
        absent: names of published files that are not there; the splits they hold are empty.
    """

    dataset: str
    clip_rows: Callable[[], Clips]
    question_rows: Callable[[], Questions] | None = None
    published: Mapping[str, Count] = field(default_factory=dict)
    paragraph: bool = False
    absent: tuple[str, ...] = ()

    def clips(self, on_skip: OnSkip | None = None, found: Found | None = None) -> Iterator[ClipRow]:
        """The clips, without their empty captions.

        Args:
            on_skip: called for each row that is left out because all its captions are empty or its id repeats.
            found: counts what is read and what is left out.

        Raises:
            ValueError: a file is malformed, or an id repeats and there is no ``on_skip``; the message names the places.
        """
        found = Found(self) if found is None else found
        found.read.add("clips")
        seen = SeenIds()
        for where, row in self.clip_rows():
            row = replace(row, id=nfc(row.id), captions=tuple(map(composed, row.captions)))
            counts = found.split(row.split)
            if not seen.add(row.id) and self._repeats(row.id, where, on_skip):
                counts.repeated += 1
                continue
            captions = tuple(c for c in row.captions if html.unescape(c.text).strip())
            counts.empty_captions += len(row.captions) - len(captions)
            if not captions and self.question_rows is None:
                counts.without_caption += 1
                if on_skip is not None:
                    on_skip(row.id, "no caption" if not row.captions else "empty caption")
                continue
            if self.paragraph and len(captions) > 1:
                captions = (Caption(" ".join(c.text.strip() for c in captions)),)
            counts.clips += 1
            counts.captions += len(captions)
            yield row if captions == row.captions else replace(row, captions=captions)

    def questions(self, found: Found | None = None) -> Iterator[QuestionRow]:
        """The questions; none where the data set has none.

        Raises:
            ValueError: a file is malformed, or an id repeats.
        """
        found = Found(self) if found is None else found
        seen: dict[str, str] = {}
        if self.question_rows is None:
            return
        found.read.add("questions")
        for where, row in self.question_rows():
            if row.id in seen:
                raise ValueError(f"{where}: id {row.id!r} already stands in {seen[row.id]}; ids must be unique")
            seen[row.id] = where
            found.split(row.split or "all").questions += 1
            yield row

    def _repeats(self, id: str, where: str, on_skip: OnSkip | None) -> bool:
        if on_skip is not None:
            on_skip(id, f"id repeats in {where}")
            return True
        first = next(place for place, row in self.clip_rows() if row.id == id)
        if first == where:  # two ids with one hash
            return False
        raise ValueError(f"{where}: id {id!r} already stands in {first}; ids must be unique")


@dataclass
class SplitCounts:
    """What was read of one split."""

    clips: int = 0
    captions: int = 0
    questions: int = 0
    videos: int = 0
    missing: int = 0
    empty_captions: int = 0
    without_caption: int = 0
    repeated: int = 0


@dataclass
class Found:
    """What was read of a data set, beside what was published."""

    annotations: Annotations
    splits: dict[str, SplitCounts] = field(default_factory=dict)
    read: set[str] = field(default_factory=set)

    def split(self, name: str) -> SplitCounts:
        return self.splits.setdefault(name, SplitCounts())

    def origin(self) -> Origin:
        """What was gone over, for the stores that are made of it."""
        clips = {name: counts.clips + counts.without_caption for name, counts in self.splits.items()}
        captions = {name: counts.captions for name, counts in self.splits.items()}
        return Origin(self.annotations.dataset, clips, captions)

    def lines(self) -> list[str]:
        """The report: a line for what each split holds, and one for each thing that is amiss."""
        out = []
        for name in dict.fromkeys([*self.annotations.published, *self.splits]):
            counts = self.split(name)
            kinds = [(getattr(counts, kind), kind) for kind in ("clips", "captions", "questions")]
            line = f"{name}: " + (", ".join(f"{count:,} {kind}" for count, kind in kinds if count) or "nothing")
            if counts.videos or counts.missing:
                line += f"; {counts.videos:,} of {counts.videos + counts.missing:,} videos found"
            out.append(line)
        return out + self.notes()

    def notes(self) -> list[str]:
        """What is amiss: counts that are not the published ones, rows left out, files that are absent."""
        out = [f"{name} is missing" for name in self.annotations.absent]
        for name in dict.fromkeys([*self.annotations.published, *self.splits]):
            counts, published = self.split(name), self.annotations.published.get(name, Count())
            for kind in ("clips", "captions", "questions"):
                count, wanted = getattr(counts, kind), getattr(published, kind)
                gone_over = ("questions" if kind == "questions" else "clips") in self.read
                if gone_over and wanted is not None and count != wanted:
                    out.append(f"{name}: {count:,} of the {wanted:,} published {kind}")
            for number, what in (
                (counts.missing, "videos missing"),
                (counts.empty_captions, "empty captions dropped"),
                (counts.without_caption, "clips without a caption dropped"),
                (counts.repeated, "repeated ids dropped"),
            ):
                if number:
                    out.append(f"{name}: {number:,} {what}")
        return out


def resolve(
    annotations: Annotations,
    videos: VideoFolder,
    on_missing: OnSkip | None,
    *,
    on_skip: OnSkip | None = None,
    found: Found | None = None,
) -> Iterator[ClipRow]:
    """The clips whose video is there, ``video`` being its path relative to the folder.

    Args:
        on_missing: called with (clip id, reason) for each clip without a video.
        on_skip, found: as in :meth:`Annotations.clips`.

    Raises:
        ValueError: as :meth:`Annotations.clips`, or two videos fit one name.
    """
    found = Found(annotations) if found is None else found
    for row in annotations.clips(on_skip, found):
        path = videos.find(row.video)
        counts = found.split(row.split)
        if path is None:
            counts.missing += 1
            if on_missing is not None:
                on_missing(row.id, f"no video {row.video!r} in {videos.folder}")
            continue
        counts.videos += 1
        yield replace(row, video=path)


def clips_asked(questions: Callable[[], Questions]) -> Callable[[], Clips]:
    """The clips that questions are about, each once, without captions; the clip's id is the video's name."""

    def rows() -> Clips:
        seen: set[str] = set()
        for where, question in questions():
            if question.clip not in seen:
                seen.add(question.clip)
                yield where, ClipRow(question.clip, question.clip, (), question.split or "train")

    return rows


Adapter = Callable[[Path], Annotations]
"""Finds a data set's published files in a folder; the folder may also be the one file there is."""
