"""What to prepare, and how."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Literal

from stoa.box_conventions import BoxFormat, Units
from stoa.prepare.detections import DetectionSource, FilterConfig, Format, open_detections
from stoa.prepare.detections.keys import DEFAULT_PATTERN
from stoa.prepare.pipelines import PIPELINE

StoreKind = Literal["frames", "video"]


@dataclass(frozen=True, kw_only=True)
class StoreConfig:
    """How clips are stored.

    Attributes:
        frames: most frames of a pack: a clip's duration is cut into this many equal parts.
        side: of the shorter side in pixels; smaller videos keep their size.
        jpeg_quality: of the frames, 1 to 95.
        gop: frames from one keyframe of a video to the next.
        crf: quality of a video, 0 (best) to 51, as x264 counts.
        clips_per_shard: clips that are tried for one tar file.
    """

    frames: int = 32
    side: int = 256
    jpeg_quality: int = 85
    gop: int = 8
    crf: int = 23
    clips_per_shard: int = 1000

    def __post_init__(self) -> None:
        limits = {
            "frames": (1, 100),
            "side": (16, 4096),
            "jpeg_quality": (1, 95),
            "gop": (1, 10_000),
            "crf": (0, 51),
            "clips_per_shard": (1, 1_000_000),
        }
        for name, (low, high) in limits.items():
            if not low <= getattr(self, name) <= high:
                raise ValueError(f"store.{name} is {getattr(self, name)}; expected {low} to {high}")


@dataclass(frozen=True, kw_only=True)
class DetectionsConfig:
    """Published detections that go with the clips; see :func:`stoa.prepare.detections.open_detections`.

    Attributes:
        path: a folder of JSON files, a TSV, a COCO JSON, or the ``manifest.jsonl`` of ``stoa detect``, whose clips are
            found by their ids; null takes those that the rows of a manifest name.
        format: of the file; ``auto`` looks.
        labels: file of class names.
        pattern: what in a key names the video, and the frame or seconds.
        fps: at which frame numbers count.
        frame_size: width and height the detector saw, where files do not say and it is not the displayed frame's.
        frame_fit: how that frame came from the displayed one.
        box_format: what the four numbers of a box are: corners (``xyxy``), a corner and a size (``xywh``), or these
            with y first (``yxyx``, ``yxhw``); null is as the format has them.
        units: of these numbers: ``pixels``, or ``normalised`` to width and height.
        max_score: of a detection that is certain: 1, or 100 where scores are percentages.
        first_frame: number of a video's first frame in keys, 0 or 1; null is 0, unless every video begins with 1.
        filter: which boxes are kept.
    """

    path: str | None = None
    format: Format = "auto"
    labels: str | None = None
    pattern: str = DEFAULT_PATTERN
    fps: float | None = None
    frame_size: tuple[int, int] | None = None
    frame_fit: Literal["stretch", "crop"] = "stretch"
    box_format: BoxFormat | None = None
    units: Units = "pixels"
    max_score: float = 1.0
    first_frame: int | None = None
    filter: FilterConfig = field(default_factory=FilterConfig)

    def __post_init__(self) -> None:
        if self.path is not None and self.manifest is None:
            return
        for option in fields(self):
            value = getattr(self, option.name)
            if option.name != "path" and value != option.default and value != FilterConfig():
                raise ValueError(
                    f"detections.{option.name} is {value} and detections.path {self.path}; it is for published files: "
                    "what 'stoa detect' and the rows of a manifest name is taken as it is"
                )

    @property
    def manifest(self) -> Path | None:
        """The manifest of ``stoa detect``, where ``path`` is one."""
        return Path(self.path) if self.path is not None and self.path.endswith(".jsonl") else None

    def open(self, on_drop: Callable[[str, str], None] | None = None) -> DetectionSource | None:
        """Published detections, if there are some; ``on_drop`` is told (video, reason) of what is left out."""
        if self.path is None or self.manifest is not None:
            return None
        options = {f.name: getattr(self, f.name) for f in fields(self) if f.name != "path"}
        return open_detections(self.path, **options, on_drop=on_drop)


@dataclass(frozen=True, kw_only=True)
class PrepareConfig:
    """A data set to prepare.

    Attributes:
        out: folder to write; one that an earlier call has begun is continued.
        videos: folder of the video files.
        stores: kinds to make: ``frames`` for long runs, ``video`` where every frame may be wanted. None (``[]``) lists
            the clips whose videos are there in ``rows.jsonl``, and the questions, and ends.
        spacy: pipeline that tags nouns and verbs: an installed name, or a folder; null leaves captions as they are.
            Captions that bring their nouns and verbs along keep them.
        timeout_seconds: a clip that takes longer counts as hung.
        store: how clips are stored.
        detections: boxes to go with them.
    """

    out: str
    videos: str
    stores: tuple[StoreKind, ...] = ("frames",)
    spacy: str | None = PIPELINE
    timeout_seconds: float = 300.0
    store: StoreConfig = field(default_factory=StoreConfig)
    detections: DetectionsConfig = field(default_factory=DetectionsConfig)

    def __post_init__(self) -> None:
        if len(set(self.stores)) != len(self.stores):
            raise ValueError(f"stores is {list(self.stores)}; expected 'frames', 'video', both or none")
        if not self.timeout_seconds > 0:
            raise ValueError(f"timeout_seconds is {self.timeout_seconds}; expected a positive number")

    def absolute(self) -> PrepareConfig:
        """The same with paths that hold in any folder: a cluster's processes run in folders of their own."""
        spacy, boxes = self.spacy, self.detections
        if spacy is not None and Path(spacy).exists():
            spacy = str(Path(spacy).resolve())
        return replace(
            self,
            out=str(Path(self.out).resolve()),
            videos=str(Path(self.videos).resolve()),
            spacy=spacy,
            detections=replace(boxes, path=_resolved(boxes.path), labels=_resolved(boxes.labels)),
        )


def _resolved(path: str | None) -> str | None:
    return None if path is None else str(Path(path).resolve())
