"""Where frames and boxes come to lie in the square that the model sees. Needs no torch.

Shape legend: n boxes.
"""

from __future__ import annotations

from collections import Counter
from typing import NamedTuple

import numpy as np

# A box that keeps less than this share of its area after the crop is dropped.
MIN_KEPT_AREA = 0.25


class Placement(NamedTuple):
    """Size in pixels to which a frame is resized, and where in it the square begins."""

    height: int
    width: int
    top: int
    left: int


def place(height: int, width: int, side: int) -> Placement:
    """Shorter side to ``side``, and its centre square."""
    shorter = min(height, width)
    new_height, new_width = height * side // shorter, width * side // shorter  # truncated, as torchvision's Resize does
    return Placement(new_height, new_width, _margin(new_height, side), _margin(new_width, side))


def boxes_to_model(boxes_n4: np.ndarray, height: int, width: int, side: int) -> tuple[np.ndarray, np.ndarray]:
    """Move boxes along with :func:`stoa.data.transforms.resize_and_crop`.

    Args:
        boxes_n4: x1, y1, x2, y2 in pixels of the displayed frame.
        height, width: of that frame.
        side: of the square the model sees.

    Returns:
        boxes in [0, 1] of the square (n, 4) float32, and which are usable (n,) bool: finite, x1 < x2,
        y1 < y2, inside the frame at least in part, and not mostly cropped away.
    """
    boxes, fate = _placed(boxes_n4, height, width, side)
    return boxes, fate == _USABLE


def unusable_boxes(boxes_n4: np.ndarray, height: int, width: int) -> Counter[str]:
    """How many boxes :func:`boxes_to_model` finds of no use, by reason."""
    _, fate = _placed(boxes_n4, height, width, 224)
    return Counter(
        {
            reason: int(count)
            for reason, count in zip(_REASONS, np.bincount(fate, minlength=5)[1:], strict=True)
            if count
        }
    )


_USABLE, *_FATES = range(5)
_REASONS = ("not a finite number", "ends before it begins", "outside the frame", "cropped away with the frame's edge")


def _placed(boxes_n4: np.ndarray, height: int, width: int, side: int) -> tuple[np.ndarray, np.ndarray]:
    """Boxes in the square, and what becomes of each (n,): 0, or one more than the index of the reason against it."""
    boxes = np.asarray(boxes_n4, dtype=np.float64).reshape(-1, 4)
    finite = np.asarray(np.isfinite(boxes).all(axis=1))
    boxes = np.where(finite[:, None], boxes, 0.0)
    ordered = (boxes[:, 0] < boxes[:, 2]) & (boxes[:, 1] < boxes[:, 3])
    inside = boxes.clip(0.0, [width, height, width, height])
    new_height, new_width, top, left = place(height, width, side)
    scale = np.array([new_width / width, new_height / height] * 2)
    offset = np.array([left, top] * 2)
    moved = (inside * scale - offset) / side
    cropped = moved.clip(0.0, 1.0)
    kept = (_area(cropped) >= MIN_KEPT_AREA * _area(moved)) & (_area(cropped) > 0)
    fate = np.select([~finite, ~ordered, ~(_area(inside) > 0), ~kept], _FATES, _USABLE)
    return cropped.astype(np.float32), fate


def _margin(length: int, side: int) -> int:
    """Pixels cut off before the centre; half to even, as torchvision's CenterCrop does."""
    return round((length - side) / 2)


def _area(boxes: np.ndarray) -> np.ndarray:
    return (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
