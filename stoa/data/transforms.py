"""From decoded frames and boxes in pixels to what the model sees.

Shape legend: T frames, H height, W width, C channels, S side of the square, n boxes.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torchvision.transforms.v2 import functional as tv

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


def resize_and_crop(frames_THWC: np.ndarray, side: int) -> torch.Tensor:
    """Shorter side to ``side`` (bicubic, antialiased, as CLIP does), then the centre square; uint8 (T, 3, S, S)."""
    frames_TCHW = torch.from_numpy(np.ascontiguousarray(frames_THWC)).permute(0, 3, 1, 2)
    if frames_TCHW.shape[-2:] == (side, side):
        return frames_TCHW.contiguous()
    height, width, top, left = place(frames_THWC.shape[1], frames_THWC.shape[2], side)
    resized = tv.resize(frames_TCHW, [height, width], tv.InterpolationMode.BICUBIC, antialias=True)
    return resized[..., top : top + side, left : left + side].contiguous()


def boxes_to_model(boxes_n4: np.ndarray, height: int, width: int, side: int) -> tuple[np.ndarray, np.ndarray]:
    """Move boxes along with :func:`resize_and_crop`.

    Args:
        boxes_n4: x1, y1, x2, y2 in pixels of the displayed frame.
        height, width: of that frame.
        side: of the square the model sees.

    Returns:
        boxes in [0, 1] of the square (n, 4) float32, and which are usable (n,) bool: finite, x1 < x2,
        y1 < y2, inside the frame at least in part, and not mostly cropped away.
    """
    boxes = np.asarray(boxes_n4, dtype=np.float64).reshape(-1, 4)
    sound = np.asarray(np.isfinite(boxes).all(axis=1))
    boxes = np.where(sound[:, None], boxes, 0.0)
    sound &= (boxes[:, 0] < boxes[:, 2]) & (boxes[:, 1] < boxes[:, 3])
    inside = boxes.clip(0.0, [width, height, width, height])
    new_height, new_width, top, left = place(height, width, side)
    scale = np.array([new_width / width, new_height / height] * 2)
    offset = np.array([left, top] * 2)
    moved = (inside * scale - offset) / side
    cropped = moved.clip(0.0, 1.0)
    kept = _area(cropped) >= MIN_KEPT_AREA * _area(moved)
    return cropped.astype(np.float32), sound & kept & (_area(cropped) > 0)


def _margin(length: int, side: int) -> int:
    """Pixels cut off before the centre; half to even, as torchvision's CenterCrop does."""
    return round((length - side) / 2)


def _area(boxes: np.ndarray) -> np.ndarray:
    return (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
