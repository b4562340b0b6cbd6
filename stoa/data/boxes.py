"""Detections of a clip, laid on the frames a model sees.

Shape legend: T frames, K boxes per frame, S side of the frame.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from stoa.data.placement import boxes_to_model
from stoa.data.sampling import nearest_frames
from stoa.detections import Detections


@dataclass(frozen=True, slots=True, kw_only=True)
class ClipShape:
    """What the model wants to see: frames (T), side in pixels (S), text tokens (L), boxes per frame (K)."""

    num_frames: int
    side: int
    max_tokens: int
    max_boxes: int


class ClipBoxes(NamedTuple):
    """Boxes of a clip; see :class:`stoa.batch.VideoTextBatch`. ``dropped`` counts those that could not be used."""

    boxes_TK4: np.ndarray
    labels_TK: np.ndarray
    scores_TK: np.ndarray
    true_labels_TK: np.ndarray
    dropped: int


def boxes_on_frames(found: Detections | None, times_seconds: np.ndarray, shape: ClipShape) -> ClipBoxes:
    """The K most confident boxes of the nearest detected frame, for every sampled frame.

    Args:
        found: detections of the clip, if it has any.
        times_seconds: (T,) of the sampled frames, counted as those of the detections.
        shape: what the model wants to see.
    """
    T, K = shape.num_frames, shape.max_boxes
    out = ClipBoxes(
        boxes_TK4=np.zeros((T, K, 4), dtype=np.float32),
        labels_TK=np.full((T, K), -1, dtype=np.int64),
        scores_TK=np.zeros((T, K), dtype=np.float32),
        true_labels_TK=np.full((T, K), -1, dtype=np.int64),
        dropped=0,
    )
    if found is None or K == 0:
        return out
    width, height = (int(v) for v in found.size_wh)
    boxes_n4, usable_n = boxes_to_model(found.boxes, height, width, shape.side)
    if len(found.frame_times_seconds):
        for t, frame in enumerate(nearest_frames(found.frame_times_seconds, times_seconds)):
            here = np.flatnonzero((found.frame_index == frame) & usable_n)
            best = here[np.argsort(-found.scores[here], kind="stable")[:K]]
            out.boxes_TK4[t, : len(best)] = boxes_n4[best]
            out.labels_TK[t, : len(best)] = found.labels[best]
            out.scores_TK[t, : len(best)] = found.scores[best]
            if found.true_labels is not None:
                out.true_labels_TK[t, : len(best)] = found.true_labels[best]
    return out._replace(dropped=int((~usable_n).sum()))
