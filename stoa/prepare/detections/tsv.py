"""Detections in TSV files, one frame a row: bottom-up attention's and VinVL's."""

from __future__ import annotations

import re
from abc import abstractmethod
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from stoa.prepare.detections.base import DetectionSource, Drops, FrameBoxes, ReadOptions
from stoa.prepare.detections.bottom_up import bottom_up_columns, read_bottom_up
from stoa.prepare.detections.keys import KeyPattern
from stoa.prepare.detections.labels import label_of_name
from stoa.prepare.detections.tsv_index import TsvIndex, TsvRow, first_row
from stoa.prepare.detections.vinvl import is_number, load_json, read_objects

_EXAMPLES = 100  # videos of which the conventions are looked at before all others


class TsvSource(DetectionSource):
    """Rows read through a :class:`TsvIndex`; a row that cannot be read drops its frame."""

    def __init__(self, path: Path, class_names: list[str], keys: KeyPattern, options: ReadOptions) -> None:
        super().__init__(str(path), class_names, options)
        self.index = TsvIndex(path, keys, self.report)

    def examples(self) -> Iterator[tuple[str, list[FrameBoxes], Drops]]:
        for video in self.index.some_videos(_EXAMPLES):
            drops = Drops()
            yield f"video {video}", self.read_frames(video, 0.0, 1.0, drops), drops

    def read_frames(self, video: str, start_seconds: float, end_seconds: float, drops: Drops) -> list[FrameBoxes]:
        frames = []
        read = self.row_reader(video, drops)
        for row in self.index.rows(video):
            try:
                frames.append(read(row))
            except ValueError as error:
                drops.add("frame", "its row cannot be read", f"{row.key!r}: {error}")
        return frames

    @abstractmethod
    def row_reader(self, video: str, drops: Drops) -> Callable[[TsvRow], FrameBoxes]:
        """What reads the rows of this video; it raises ValueError for one that cannot be."""


class BottomUpTsv(TsvSource):
    """Bottom-up attention's predictions; see :mod:`stoa.prepare.detections.bottom_up`."""

    box_key = "boxes"

    def __init__(self, path: Path, class_names: list[str], keys: KeyPattern, options: ReadOptions) -> None:
        self._columns = bottom_up_columns(first_row(path), str(path))
        super().__init__(path, class_names, keys, options)
        self.require_conventions()

    def row_reader(self, video: str, drops: Drops) -> Callable[[TsvRow], FrameBoxes]:
        return lambda row: read_bottom_up(row.seconds, row.fields, self._columns, len(self.class_names), drops)


class VinVLTsv(TsvSource):
    """VinVL's predictions: key TAB JSON, either a list of objects or ``{"objects", "image_h", "image_w"}``.

    The sizes of the frames may stand in a ``.hw.tsv`` beside it (``train.hw.tsv`` for ``train.label.tsv``), as JSON
    (``[{"height", "width"}]``) or as the two numbers, height first.
    """

    box_key = "rect"

    def __init__(self, path: Path, class_names: list[str], keys: KeyPattern, options: ReadOptions) -> None:
        super().__init__(path, class_names, keys, options)
        self._label_of = label_of_name(class_names)
        sizes = next((beside for beside in beside_tsv(path, "hw") if beside.is_file()), None)
        self._sizes = TsvIndex(sizes, keys, self.report) if sizes else None
        self.require_conventions()

    def row_reader(self, video: str, drops: Drops) -> Callable[[TsvRow], FrameBoxes]:
        sizes = {row.key: row.fields for row in self._sizes.rows(video)} if self._sizes else {}

        def read(row: TsvRow) -> FrameBoxes:
            if not row.fields:
                raise ValueError("no second column; expected JSON")
            raw = load_json(row.fields[0], "column 2")
            objects = raw.get("objects") if isinstance(raw, dict) else raw
            if not isinstance(objects, list):
                raise ValueError("column 2 is neither a list of objects nor an object with 'objects'")
            size_wh = None
            if isinstance(raw, dict) and "image_w" in raw:
                size_wh = _size(raw.get("image_w"), raw.get("image_h"))
            elif self._sizes:
                if row.key not in sizes:
                    raise ValueError(f"{self._sizes.path} has no row with its size")
                size_wh = _size_of_hw(sizes[row.key])
            return FrameBoxes(row.seconds, *read_objects(objects, self._label_of, drops), size_wh)

        return read


def beside_tsv(path: Path, kind: str) -> list[Path]:
    """Where the ``kind`` of TSV that belongs to ``path`` may be: ``a.b.hw.tsv`` and ``a.hw.tsv`` for ``a.b.tsv``."""
    stem = path.name.removesuffix(".tsv")
    return [path.with_name(f"{name}.{kind}.tsv") for name in dict.fromkeys((stem, stem.rpartition(".")[0])) if name]


def _size_of_hw(fields: list[bytes]) -> tuple[float, float]:
    text = fields[0] if fields else b""
    if re.fullmatch(rb"\s*\d+\s+\d+\s*", text):
        height, width = map(int, text.split())
        return _size(width, height)
    raw = load_json(text, "size")
    if isinstance(raw, list) and raw:
        raw = raw[0]
    if not isinstance(raw, dict):
        raise ValueError(f"size {raw!r} is no object with 'height' and 'width'")
    return _size(raw.get("width"), raw.get("height"))


def _size(width: Any, height: Any) -> tuple[float, float]:
    if not (is_number(width) and is_number(height) and width > 0 and height > 0):
        raise ValueError(f"the frame's size is {width!r} x {height!r}; expected a width and height above 0")
    return float(width), float(height)
