"""What a source of detections promises, and what all files have in common: checks, placing, filtering, reports.

Shape legend: n boxes.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import ClassVar, Literal, NamedTuple

import numpy as np

from stoa.box_conventions import BoxFormat, Conventions, Evidence, Units
from stoa.detections import Detections
from stoa.prepare.detections.filtering import FilterConfig, area_of, filter_detections

# A stated duration and the frames of a file differ by a few frames.
_SLACK_SECONDS = 0.5
_PIXEL = 1 - 1e-4  # what rounding may leave of one
UNKNOWN_CLASS = "its class is not one of the labels"
"""Why a box is dropped."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ReadOptions:
    """How files of any format are read.

    Attributes:
        frame_size: width and height of the frames that the detector saw, where the file does not say;
            ``None`` when they are the displayed frames.
        frame_fit: how these came from the displayed frames: ``stretch`` resized each side on its own (or kept the
            aspect ratio), ``crop`` resized until they covered ``frame_size`` and cut out the centre.
        box_format: what the four numbers of a box are; ``None`` is as the format has them.
        units: of these.
        max_score: confidence of a detection that is certain.
        filter: which boxes are kept.
        on_drop: called with (video, reason) for what is left out.
    """

    frame_size: tuple[int, int] | None = None
    frame_fit: Literal["stretch", "crop"] = "stretch"
    box_format: BoxFormat | None = None
    units: Units = "pixels"
    max_score: float = 1.0
    filter: FilterConfig = field(default_factory=FilterConfig)
    on_drop: Callable[[str, str], None] | None = None

    def __post_init__(self) -> None:
        if self.frame_size is not None and not (len(self.frame_size) == 2 and min(self.frame_size) > 0):
            raise ValueError(f"frame_size is {self.frame_size}; pass a width and a height in pixels above 0")
        if self.frame_fit not in ("stretch", "crop"):
            raise ValueError(f"frame_fit is {self.frame_fit!r}; pass 'stretch' or 'crop'")
        if not self.max_score > 0:
            raise ValueError(f"max_score is {self.max_score}; pass a number above 0")


class FrameBoxes(NamedTuple):
    """The boxes of one frame as a file has them.

    Attributes:
        seconds: time of the frame, from the start of the video file.
        boxes: (n, 4) float64, in the conventions of the file.
        labels: (n,) int64.
        scores: (n,) float64; NaN where the file gives none.
        size_wh: of the frame that the boxes refer to, where the file says it.
    """

    seconds: float
    boxes: np.ndarray
    labels: np.ndarray
    scores: np.ndarray
    size_wh: tuple[float, float] | None = None


class Drops:
    """What is left out of one clip: counts by reason, each with its first example."""

    def __init__(self) -> None:
        self.counts: Counter[tuple[str, str]] = Counter()
        self._examples: dict[tuple[str, str], object] = {}

    def add(self, what: Literal["box", "frame"], reason: str, example: object, count: int = 1) -> None:
        key = (what, reason)
        self.counts[key] += count
        self._examples.setdefault(key, example)

    def lines(self) -> Iterator[str]:
        for (what, reason), count in self.counts.items():
            plural = {"box": "boxes", "frame": "frames"}[what] if count > 1 else what
            yield f"{count} {plural} dropped: {reason}, such as {self._examples[what, reason]}"


class DetectionSource(ABC):
    """Detections of many videos, read from files; a format says how the frames of a video are read.

    Attributes:
        name: of the file or folder, for messages.
        class_names: what the labels are an index into.
        options: how the files are read.
        conventions: in which they are written.
        counts: boxes ``read`` and ``kept`` so far, and by reason those left out.
    """

    box_key: ClassVar[str]
    """Under which a file has its boxes."""
    box_format: ClassVar[BoxFormat] = "xyxy"
    """What the format has for a box."""

    def __init__(self, name: str, class_names: list[str], options: ReadOptions) -> None:
        self.name = name
        self.class_names = class_names
        self.options = options
        self.conventions = Conventions(
            box_format=options.box_format or self.box_format,
            units=options.units,
            max_score=options.max_score,
            asked=options.box_format is not None,
        )
        self.counts: Counter[str] = Counter()

    @abstractmethod
    def read_frames(self, video: str, start_seconds: float, end_seconds: float, drops: Drops) -> list[FrameBoxes]:
        """The frames of a video, in any order; empty when the files do not have it.

        Args:
            start_seconds, end_seconds: of the clip, over which frames without a time are spread.
            drops: takes what is left out.

        Raises:
            ValueError: nothing of the video can be read.
        """

    def examples(self) -> Iterable[tuple[str, list[FrameBoxes], Drops]]:
        """Some of the file's videos or frames by name, or all of them where that is cheap, to see how it is written."""
        return ()

    def require_conventions(self, found: Iterable[tuple[str, list[FrameBoxes], Drops]] | None = None) -> None:
        """Refuse to read boxes in conventions that they contradict.

        Args:
            found: videos with what was read of each; default: the examples.

        Raises:
            ValueError: most boxes do, or none has a class of the labels; the message names the option that would do.
        """
        evidence, drops, read = Evidence(self.conventions), Drops(), 0
        for video, frames, dropped in self.examples() if found is None else found:
            for frame in frames:
                evidence.add(video, frame.boxes, frame.scores, frame.size_wh or self.options.frame_size)
                read += len(frame.boxes)
            for key, count in dropped.counts.items():
                drops.counts[key] += count
        doubt = evidence.doubt()
        if doubt is not None:
            option = f"--detections.{doubt.option}" + (f" {doubt.value}" if doubt.value else "")
            raise ValueError(f"detections {self.name}: {self.box_key!r}: {doubt.finding}; pass {option}")
        unknown = drops.counts["box", UNKNOWN_CLASS]
        if unknown and not read:
            names = ", ".join(map(repr, self.class_names[:3]))
            raise ValueError(
                f"detections {self.name}: none of the classes of {unknown} boxes is among the {len(self.class_names)} "
                f"labels ({names}, ...); pass --detections.labels, the file of the detector's class names"
            )

    def look(self, video: str, *, size_wh: tuple[int, int]) -> tuple[str, list[FrameBoxes], Drops]:
        """What :meth:`require_conventions` takes, of one video, with the size of its frames."""
        drops = Drops()
        try:
            frames = self.read_frames(video, 0.0, 1.0, drops)
        except ValueError:
            return video, [], drops
        return video, [replace_size(frame, size_wh, self.options) for frame in frames], drops

    def find(
        self,
        video: str,
        *,
        size_wh: tuple[int, int],
        duration_seconds: float,
        start_seconds: float | None = None,
        end_seconds: float | None = None,
    ) -> Detections | None:
        """The detections of a clip, filtered, in pixels of the displayed frame.

        Args:
            video: as the source names it.
            size_wh: of the displayed frame.
            duration_seconds: of the video file.
            start_seconds, end_seconds: of the part of it that is the clip; ``None`` is the file's own start or end.

        Returns:
            ``None`` when the source has nothing usable on the video. ``frame_times_seconds`` counts from the
            start of the file; of frames outside the part, the two next to it are kept, so that the nearest frame of
            any time in the part is the same as with all of them.
        """
        start = start_seconds or 0.0
        end = duration_seconds if end_seconds is None else min(end_seconds, duration_seconds)
        drops = Drops()
        try:
            frames = self.read_frames(video, start, end, drops)
        except ValueError as error:
            self.report(video, str(error))
            return None
        frames = _of_part(_in_order(frames, duration_seconds, drops), start, end)
        detections = _assemble(frames, size_wh, self.options, self.conventions, drops) if frames else None
        for line in drops.lines():
            self.report(video, line)
        for (what, reason), count in drops.counts.items():
            self.counts[reason] += count if what == "box" else 0
        if detections is None:
            return None
        kept = filter_detections(detections, self.options.filter)
        self.counts["read"] += len(detections.labels) + sum(n for (what, _), n in drops.counts.items() if what == "box")
        self.counts["kept"] += len(kept.labels)
        self._count_filtered(detections, len(kept.labels))
        return kept

    def _count_filtered(self, found: Detections, kept: int) -> None:
        config = self.options.filter
        low = found.scores < config.min_score
        small = ~low & (area_of(found.boxes) < config.min_area * found.size_wh.prod())
        self.counts["below --detections.filter.min_score"] += int(low.sum())
        self.counts["below --detections.filter.min_area"] += int(small.sum())
        self.counts["not among those that --detections.filter keeps of a frame"] += int((~low & ~small).sum()) - kept

    def report(self, video: str, reason: str) -> None:
        if self.options.on_drop is not None:
            self.options.on_drop(video, reason)


def _in_order(frames: list[FrameBoxes], duration_seconds: float, drops: Drops) -> list[FrameBoxes]:
    """By time, without those outside the video and those whose time an earlier one of the file has."""
    by_time: dict[float, FrameBoxes] = {}
    for frame in frames:
        if not 0 <= frame.seconds <= duration_seconds + _SLACK_SECONDS:
            drops.add("frame", f"outside the video of {duration_seconds:g} s", f"the one at {frame.seconds:g} s")
        elif frame.seconds in by_time:
            drops.add("frame", "the same time stands twice", f"{frame.seconds:g} s")
        else:
            by_time[frame.seconds] = frame
    return [by_time[seconds] for seconds in sorted(by_time)]


def _of_part(frames: list[FrameBoxes], start: float, end: float) -> list[FrameBoxes]:
    times = [frame.seconds for frame in frames]
    first = max(int(np.searchsorted(times, start, side="right")) - 1, 0)
    return frames[first : int(np.searchsorted(times, end, side="left")) + 1]


def replace_size(frame: FrameBoxes, display_wh: tuple[int, int], options: ReadOptions) -> FrameBoxes:
    """The frame with the size that its boxes refer to, said or not."""
    return frame._replace(size_wh=frame.size_wh or options.frame_size or display_wh)


def _assemble(
    frames: list[FrameBoxes], display_wh: tuple[int, int], options: ReadOptions, conventions: Conventions, drops: Drops
) -> Detections:
    """Place the boxes on the displayed frame and drop those that cannot be."""
    counts = [len(frame.labels) for frame in frames]
    boxes = np.concatenate([frame.boxes for frame in frames]).astype(np.float64)
    scores = np.concatenate([frame.scores for frame in frames]).astype(np.float64) / conventions.max_score
    labels = np.concatenate([frame.labels for frame in frames]).astype(np.int64)
    frame_index = np.repeat(np.arange(len(frames)), counts)
    sizes = np.array([frame.size_wh or options.frame_size or display_wh for frame in frames], dtype=np.float64)

    finite = np.asarray(np.isfinite(boxes).all(axis=1))
    # A NaN, which is a missing score, is not within either.
    confident = (scores >= 0) & (scores <= 1)
    corners = conventions.corners(np.where(finite[:, None], boxes, 0.0), sizes[frame_index])
    placed = _place(corners, sizes[frame_index], display_wh, options.frame_fit)
    ends = (placed[:, :2] < placed[:, 2:]).all(axis=1)
    placed = placed.clip(0.0, [*display_wh, *display_wh]).astype(np.float32)
    inside = (placed[:, :2] < placed[:, 2:]).all(axis=1)
    good = np.ones(len(boxes), dtype=bool)
    for reason, sound, values in (
        ("a coordinate is no finite number", finite, boxes),
        ("the score is missing or not within 0 and 1", confident, scores),
        ("it ends before it begins", ends, boxes),
        ("nothing of it lies in the frame", inside, boxes),
        ("it is less than a pixel wide or high", (placed[:, 2:] - placed[:, :2] >= _PIXEL).all(axis=1), boxes),
    ):
        bad = good & ~sound
        good &= sound
        if bad.any():
            drops.add("box", reason, values[bad][0].tolist(), int(bad.sum()))
    return Detections(
        frame_times_seconds=np.array([frame.seconds for frame in frames], dtype=np.float64),
        frame_index=frame_index[good].astype(np.int64),
        boxes=placed[good],
        labels=labels[good],
        scores=scores[good].astype(np.float32),
        size_wh=np.array(display_wh, dtype=np.int64),
    )


def _place(boxes: np.ndarray, sizes_wh: np.ndarray, display_wh: tuple[int, int], fit: str) -> np.ndarray:
    """From pixels of the frames that the detector saw, (n, 2) sizes, to pixels of the displayed frame."""
    scale = sizes_wh / np.array(display_wh, dtype=np.float64)
    if fit == "crop":
        scale = np.repeat(scale.max(axis=1, keepdims=True), 2, axis=1)
    cut = (scale * display_wh - sizes_wh) / 2
    return (boxes + np.tile(cut, 2)) / np.tile(scale, 2)
