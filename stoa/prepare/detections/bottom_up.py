"""Rows of bottom-up attention's TSV files: numbers, and base64 of raw little-endian arrays.

Published variants, told apart by where the number of boxes stands; columns in brackets may be missing:

- ``img_id, img_h, img_w, objects_id, objects_conf, attrs_id, attrs_conf, num_boxes, boxes [, features, ...]``
- ``img_id, img_h, img_w, objects_id, objects_conf, num_boxes, boxes [, features, ...]``
- ``image_id, image_w, image_h, num_boxes, boxes, features, cls_prob``
- ``image_id, image_h, image_w, num_boxes, boxes, features, cls_prob, classes``

``cls_prob`` is (n, 1 + classes), the background first. Features are never decoded.
"""

from __future__ import annotations

import base64
import binascii
import re
from dataclasses import dataclass

import numpy as np

from stoa.prepare.detections.base import UNKNOWN_CLASS, Drops, FrameBoxes


@dataclass(frozen=True, slots=True)
class BottomUpColumns:
    """Which field, the key not counted, holds what.

    Attributes:
        classes: the fields of the class indices and of their confidences, or the one of ``cls_prob``.
    """

    width: int
    height: int
    count: int
    boxes: int
    classes: tuple[int, int] | int

    @property
    def last(self) -> int:
        return max(self.boxes, self.classes) if isinstance(self.classes, int) else max(self.boxes, *self.classes)


_ATTRIBUTES = BottomUpColumns(height=0, width=1, count=6, boxes=7, classes=(2, 3))
_NO_ATTRIBUTES = BottomUpColumns(height=0, width=1, count=4, boxes=5, classes=(2, 3))
_WIDTH_FIRST = BottomUpColumns(width=0, height=1, count=2, boxes=3, classes=5)
_HEIGHT_FIRST = BottomUpColumns(height=0, width=1, count=2, boxes=3, classes=5)
_FLOATS = {4: "<f4", 8: "<f8"}
_INTEGERS = {4: "<i4", 8: "<i8"}


def bottom_up_columns(row: list[bytes], where: str) -> BottomUpColumns:
    """The variant that a row, its key included, is written in.

    Raises:
        ValueError: none of the known ones, or one without classes.
    """
    # A short run of digits; the base64 of even one number is longer.
    plain = [index for index, value in enumerate(row[3:], start=3) if re.fullmatch(rb"\d{1,5}", value)]
    if plain[:1] == [7] and len(row) >= 9:
        return _ATTRIBUTES
    if plain[:1] == [5] and len(row) >= 7:
        return _NO_ATTRIBUTES
    if plain[:1] == [3] and len(row) == 7:
        return _WIDTH_FIRST
    if plain[:1] == [3] and len(row) == 8:
        return _HEIGHT_FIRST
    if plain[:1] == [3] and len(row) == 6:
        raise ValueError(f"detections {where}: 6 columns hold boxes and features but no classes; make predictions")
    raise ValueError(
        f"detections {where}: {len(row)} columns, numbers in columns {[index + 1 for index in plain]}, are no known "
        "bottom-up layout; expected img_id, img_h, img_w, objects_id, objects_conf[, attrs_id, attrs_conf], "
        "num_boxes, boxes or a variant with cls_prob"
    )


def read_bottom_up(
    seconds: float, fields: list[bytes], columns: BottomUpColumns, num_classes: int, drops: Drops
) -> FrameBoxes:
    """Read a row's fields, the key left out.

    Raises:
        ValueError: a column is missing, cut or of another length than the number of boxes asks for.
    """
    if len(fields) <= columns.last:
        raise ValueError(f"{len(fields) + 1} columns; expected at least {columns.last + 2}, the row is cut")
    width = _number(fields[columns.width], "the width")
    height = _number(fields[columns.height], "the height")
    count = _number(fields[columns.count], "num_boxes")
    if not (width and height):
        raise ValueError(f"the frame's size is {width} x {height}; expected a width and height above 0")
    boxes = _array(fields[columns.boxes], "boxes", 4 * count, _FLOATS).reshape(count, 4)
    if isinstance(columns.classes, int):
        probabilities = _array(fields[columns.classes], "cls_prob", (1 + num_classes) * count, _FLOATS)
        foreground = probabilities.reshape(count, 1 + num_classes)[:, 1:]
        labels, scores = foreground.argmax(axis=1), foreground.max(axis=1)
    else:
        labels = _array(fields[columns.classes[0]], "objects_id", count, _INTEGERS)
        scores = _array(fields[columns.classes[1]], "objects_conf", count, _FLOATS)
    known = (labels >= 0) & (labels < num_classes)
    if not known.all():
        example = f"class {labels[~known][0]}"
        drops.add("box", UNKNOWN_CLASS, example, int((~known).sum()))
    return FrameBoxes(seconds, boxes[known], labels[known], scores[known], (width, height))


def _number(field: bytes, name: str) -> int:
    if not re.fullmatch(rb"\s*\d+\s*", field):
        raise ValueError(f"{name} is {field[:20]!r}; expected a whole number")
    return int(field)


def _array(field: bytes, name: str, size: int, types: dict[int, str]) -> np.ndarray:
    """Decode ``size`` numbers; the bytes that each takes tell the type."""
    try:
        data = base64.b64decode(field, validate=True)
    except binascii.Error as error:
        raise ValueError(f"{name} is not valid base64, perhaps cut ({error})") from None
    for width, kind in types.items():
        if len(data) == width * size:
            return np.frombuffer(data, dtype=kind)
    raise ValueError(f"{name} holds {len(data)} bytes for {size} numbers; the column is cut or of another type")
