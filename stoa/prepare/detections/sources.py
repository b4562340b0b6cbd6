"""Opens published detections, whatever their format."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Literal

from stoa.box_conventions import BoxFormat, Units
from stoa.prepare.detections.base import DetectionSource, ReadOptions
from stoa.prepare.detections.coco import CocoFile
from stoa.prepare.detections.filtering import FilterConfig
from stoa.prepare.detections.keys import DEFAULT_PATTERN, KeyPattern
from stoa.prepare.detections.labels import read_class_names
from stoa.prepare.detections.tsv import BottomUpTsv, VinVLTsv, beside_tsv
from stoa.prepare.detections.tsv_index import first_row
from stoa.prepare.detections.vinvl import VinVLFolder

Format = Literal["auto", "vinvl_json", "vinvl_tsv", "bottom_up_tsv", "coco_json"]
FORMATS: tuple[Format, ...] = ("auto", "vinvl_json", "vinvl_tsv", "bottom_up_tsv", "coco_json")


def open_detections(
    path: str | os.PathLike[str],
    *,
    format: Format = "auto",
    labels: str | os.PathLike[str] | None = None,
    pattern: str = DEFAULT_PATTERN,
    fps: float | None = None,
    frame_size: tuple[int, int] | None = None,
    frame_fit: Literal["stretch", "crop"] = "stretch",
    box_format: BoxFormat | None = None,
    units: Units = "pixels",
    max_score: float = 1.0,
    first_frame: int | None = None,
    filter: FilterConfig | None = None,
    on_drop: Callable[[str, str], None] | None = None,
) -> DetectionSource:
    """Open a folder or file of detections.

    Args:
        path: a folder of ``{video}.json`` (``vinvl_json``), a TSV of VinVL (``vinvl_tsv``) or bottom-up
            attention (``bottom_up_tsv``), or a COCO JSON (``coco_json``).
        format: ``auto`` goes by folder, suffix and first row.
        labels: file of class names, see :func:`stoa.prepare.detections.labels.read_class_names`. It may be left out
            for COCO, which has categories, and for a VinVL TSV with a ``.labelmap.tsv`` beside it.
        pattern: what in a TSV key or COCO ``file_name`` names the video and the ``frame`` or ``seconds``.
        fps: at which frame numbers count.
        frame_size: width and height of the frames that the detector saw, where the file does not say and they are
            not the displayed ones. STOA-VLP's release has (224, 224), its network's input, with ``crop``.
        frame_fit: how they came from the displayed frames; see :class:`stoa.prepare.detections.base.ReadOptions`.
        box_format: what the four numbers of a box are, where it is not as the format has them: ``xyxy``, for COCO
            ``xywh``; see :class:`stoa.box_conventions.Conventions`.
        units: ``pixels``, or ``normalised`` to width and height of the frame.
        max_score: of a detection that is certain: 100 where scores are percentages.
        first_frame: number of a video's first frame, 0 or 1; None is 0, unless every video begins with 1.
        filter: which boxes are kept; default: the 10 most confident of a frame.
        on_drop: called with (video, reason) for boxes, frames and videos that are left out.

    Raises:
        ValueError: the path, an option or the file as a whole is unusable, or its boxes contradict the conventions
            that they are read in.
    """
    path = Path(path)
    if not path.exists():
        raise ValueError(f"detections {path} do not exist; pass a folder of JSON files, a .tsv or a COCO .json")
    if format not in FORMATS:
        raise ValueError(f"format is {format!r}; pass one of {', '.join(FORMATS)}")
    if format == "auto":
        format = _guess(path)
    if path.is_dir() != (format == "vinvl_json"):
        raise ValueError(f"detections {path}: format {format} is read from a {'file' if path.is_dir() else 'folder'}")
    options = ReadOptions(
        frame_size=frame_size,
        frame_fit=frame_fit,
        box_format=box_format,
        units=units,
        max_score=max_score,
        filter=filter or FilterConfig(),
        on_drop=on_drop,
    )
    keys = KeyPattern(pattern, fps, first_frame)
    if format == "coco_json":
        return CocoFile(path, None if labels is None else read_class_names(labels), keys, options)
    names = read_class_names(_labels_file(path, format) if labels is None else labels)
    if format == "vinvl_json":
        return VinVLFolder(path, names, options)
    return (VinVLTsv if format == "vinvl_tsv" else BottomUpTsv)(path, names, keys, options)


def _guess(path: Path) -> Format:
    if path.is_dir():
        return "vinvl_json"
    if path.suffix == ".json":
        return "coco_json"
    row = first_row(path) if path.suffix == ".tsv" else []
    if len(row) >= 6:
        return "bottom_up_tsv"
    if len(row) in (2, 3) and row[1].lstrip()[:1] in (b"[", b"{"):
        return "vinvl_tsv"
    raise ValueError(
        f"detections {path}: neither a folder, a .json nor a .tsv with a known first row "
        f"({len(row)} columns); pass format"
    )


def _labels_file(path: Path, format: Format) -> Path:
    for beside in beside_tsv(path, "labelmap") if format == "vinvl_tsv" else ():
        if beside.is_file():
            return beside
    raise ValueError(f"detections {path}: format {format} needs labels; pass the file of the detector's class names")
