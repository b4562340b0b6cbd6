"""True boxes to what a detector would have found: misses, jitter, wrong labels and spurious boxes."""

from __future__ import annotations

import numpy as np

from stoa.detections import Detections

MISS_RATE = 0.15, 0.30
"""Range of the per-clip share of visible objects that are missed."""
WRONG_LABEL_RATE = 0.1
SPURIOUS_PER_FRAME = 0.4
MIN_VISIBILITY = 0.3
"""An object that shows less than this is never found."""
JITTER = 0.04
"""Standard deviation of a box edge, in parts of the box's side."""


def detect(
    rng: np.random.Generator,
    *,
    boxes: np.ndarray,
    visibility: np.ndarray,
    labels: np.ndarray,
    frame_times_seconds: np.ndarray,
    size: int,
    num_labels: int,
) -> Detections:
    """Draw the detections of a clip.

    Args:
        boxes: (objects, F, 4) true boxes in pixels on the F frames that the detector sees.
        visibility: (objects, F) share of each object that shows.
        labels: (objects,) true label of each object.
        frame_times_seconds: (F,) presentation times of these frames.
        size: width and height of the frame in pixels.
    """
    found = (visibility >= MIN_VISIBILITY) & (rng.random(visibility.shape) >= rng.uniform(*MISS_RATE))
    frame_index, object_index = np.nonzero(found.T)
    num_found = len(frame_index)
    true = boxes[object_index, frame_index]
    sides = np.tile(true[:, 2:] - true[:, :2], 2)
    wrong = rng.random(num_found) < WRONG_LABEL_RATE
    shift = np.where(wrong, rng.integers(1, num_labels, num_found), 0)
    scores = np.where(wrong, rng.uniform(0.3, 0.7, num_found), rng.uniform(0.5, 1.0, num_found))

    num_spurious = int(rng.poisson(SPURIOUS_PER_FRAME * len(frame_times_seconds)))
    centres, halves = rng.uniform(0.1, 0.9, (num_spurious, 2)), rng.uniform(0.06, 0.2, (num_spurious, 2))
    spurious = np.concatenate((centres - halves, centres + halves), axis=-1) * size

    all_frames = np.concatenate((frame_index, rng.integers(0, len(frame_times_seconds), num_spurious)))
    all_boxes = np.concatenate((true + rng.normal(0, JITTER, true.shape) * sides, spurious)).clip(0, size)
    said_labels = (labels[object_index] + shift) % num_labels
    all_labels = np.concatenate((said_labels, rng.integers(0, num_labels, num_spurious)))
    all_scores = np.concatenate((scores, rng.uniform(0.05, 0.4, num_spurious)))
    # Detectors list the boxes of a frame by score: the order must not tell which object is which.
    order = np.lexsort((-all_scores, all_frames))
    return Detections(
        frame_times_seconds=frame_times_seconds.astype(np.float64),
        frame_index=all_frames[order].astype(np.int64),
        boxes=all_boxes[order].astype(np.float32),
        labels=all_labels[order].astype(np.int64),
        scores=all_scores[order].astype(np.float32),
        size_wh=np.array((size, size), np.int64),
        true_labels=np.concatenate((labels[object_index], np.full(num_spurious, -1)))[order].astype(np.int64),
    )
