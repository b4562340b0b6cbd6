"""Which of a detector's boxes a clip keeps.

Shape legend: n boxes of a clip, m boxes of one frame.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from stoa.detections import Detections

RELEASED_IOU = 0.5
"""A box of a class not kept so far goes when it overlaps a kept one by this much (the rule ``released``)."""


@dataclass(frozen=True, kw_only=True)
class FilterConfig:
    """What is kept of each frame; the steps are taken in the order of the fields from ``min_score`` on, then ``rule``.

    Attributes:
        rule: ``top_k`` keeps the ``max_boxes`` most confident boxes, as the STOA-VLP paper says. ``released`` does
            as its released code: in the order of the file, one box a class, none that overlaps a kept one
            by an IoU of 0.5 or more, stop at twice ``max_boxes``; of these the ``max_boxes`` largest.
        max_boxes: boxes kept a frame.
        min_score: confidence below which a box goes.
        min_area: share of the frame's area below which a box goes.
        nms_iou: non-maximum suppression within a class: a box goes when its IoU with a more confident one is above
            this; null for none.
        one_per_class: keep the most confident box of a class only.
    """

    rule: Literal["top_k", "released"] = "top_k"
    max_boxes: int = 10
    min_score: float = 0.0
    min_area: float = 0.0
    nms_iou: float | None = None
    one_per_class: bool = False

    def __post_init__(self) -> None:
        if self.rule not in ("top_k", "released"):
            raise ValueError(f"rule is {self.rule!r}; pass 'top_k' or 'released'")
        if self.max_boxes < 1:
            raise ValueError(f"max_boxes is {self.max_boxes}; pass 1 or more")
        for name in ("min_score", "min_area", "nms_iou"):
            value = getattr(self, name)
            if value is not None and not 0 <= value <= 1:
                raise ValueError(f"{name} is {value}; pass a number from 0 to 1")


def filter_detections(detections: Detections, config: FilterConfig) -> Detections:
    """Apply ``config`` to each frame. Frames left without boxes stay: nothing was found on them.

    Returns:
        the kept boxes, frame by frame: the most confident first, or with the rule ``released`` the largest; ties in
        the order of ``detections``.
    """
    area = area_of(detections.boxes)
    enough = (detections.scores >= config.min_score) & (area >= config.min_area * detections.size_wh.prod())
    candidates = np.flatnonzero(enough)
    # Stable: a frame's boxes stay in the order of the file.
    candidates = candidates[np.argsort(detections.frame_index[candidates], kind="stable")]
    starts = np.flatnonzero(np.diff(detections.frame_index[candidates], prepend=-1))
    frames = np.split(candidates, starts[1:]) if len(candidates) else []
    kept = [_keep(detections, area, frame, config) for frame in frames]
    return _take(detections, np.concatenate(kept) if kept else candidates)


def _keep(found: Detections, area: np.ndarray, frame: np.ndarray, config: FilterConfig) -> np.ndarray:
    """The boxes to keep out of those of one frame, as indices of the clip's boxes."""
    if config.nms_iou is not None:
        frame = np.sort(_suppress(found, _by_score(found, frame), config.nms_iou))
    if config.one_per_class:
        by_score = _by_score(found, frame)
        frame = np.sort(by_score[np.unique(found.labels[by_score], return_index=True)[1]])
    if config.rule == "top_k":
        return _by_score(found, frame)[: config.max_boxes]
    listed = _one_per_class_apart(found, frame, 2 * config.max_boxes)
    return listed[np.lexsort((-found.scores[listed], -area[listed]))][: config.max_boxes]


def _by_score(found: Detections, frame: np.ndarray) -> np.ndarray:
    return frame[np.argsort(-found.scores[frame], kind="stable")]


def _suppress(found: Detections, by_score: np.ndarray, max_iou: float) -> np.ndarray:
    same_class = found.labels[by_score][:, None] == found.labels[by_score]
    overlaps = same_class & (_iou(found.boxes[by_score]) > max_iou)
    alive = np.ones(len(by_score), dtype=bool)
    for box in range(len(by_score)):
        if alive[box]:
            alive[box + 1 :] &= ~overlaps[box, box + 1 :]
    return by_score[alive]


def _one_per_class_apart(found: Detections, frame: np.ndarray, most: int) -> np.ndarray:
    overlaps = _iou(found.boxes[frame]) >= RELEASED_IOU
    kept: list[int] = []
    classes: set[int] = set()
    for box, label in enumerate(found.labels[frame].tolist()):
        if label not in classes and not overlaps[box, kept].any():
            kept.append(box)
            classes.add(label)
            if len(kept) == most:
                break
    return frame[kept]


def _iou(boxes: np.ndarray) -> np.ndarray:
    """(m, m) intersection over union; 0 between boxes without area."""
    boxes = boxes.astype(np.float64)  # in float32 an IoU of 1/5 would be above a threshold of 0.2
    corner = np.maximum(boxes[:, None, :2], boxes[None, :, :2])
    sides = (np.minimum(boxes[:, None, 2:], boxes[None, :, 2:]) - corner).clip(0)
    common = sides[..., 0] * sides[..., 1]
    area = area_of(boxes)
    union = area[:, None] + area - common
    return np.divide(common, union, out=np.zeros_like(common), where=union > 0)


def area_of(boxes: np.ndarray) -> np.ndarray:
    """(n,) float64, of boxes (n, 4) given by corners."""
    boxes = boxes.astype(np.float64)
    return (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])


def _take(found: Detections, index: np.ndarray) -> Detections:
    return replace(
        found,
        frame_index=found.frame_index[index],
        boxes=found.boxes[index],
        labels=found.labels[index],
        scores=found.scores[index],
        true_labels=None if found.true_labels is None else found.true_labels[index],
    )
