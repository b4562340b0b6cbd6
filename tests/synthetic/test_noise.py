from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from stoa.detections import Detections
from stoa.synthetic.noise import MIN_VISIBILITY, detect


def _overlap(box: np.ndarray, others: np.ndarray) -> np.ndarray:
    low, high = np.maximum(box[:2], others[:, :2]), np.minimum(box[2:], others[:, 2:])
    shared = (high - low).clip(0).prod(axis=1)
    areas = (others[:, 2:] - others[:, :2]).prod(axis=1)
    return shared / ((box[2:] - box[:2]).prod() + areas - shared)


def test_rates_over_a_data_set(data_set: Path, read_jsonl: Callable[[Path], list[dict[str, Any]]]) -> None:
    visible = found = right = spurious = frames = 0
    overlaps: list[float] = []
    for split in ("train", "val", "test"):
        for row in read_jsonl(data_set / "truth" / f"{split}.jsonl"):
            detections = Detections.load(data_set / "detections" / split / f"{row['id']}.npz")
            assert set(detections.frame_times_seconds) <= set(row["frame_times_seconds"])
            assert (detections.boxes >= 0).all() and (detections.boxes <= detections.size_wh[0]).all()
            assert (np.diff(detections.frame_index) >= 0).all()
            spurious += int((detections.scores < 0.3).sum())
            frames += len(detections.frame_times_seconds)
            for index, seconds in enumerate(detections.frame_times_seconds):
                here = detections.frame_index == index
                sure = here & (detections.scores >= 0.41)
                frame = row["frame_times_seconds"].index(seconds)
                for thing in row["objects"]:
                    if thing["visibility"][frame] < MIN_VISIBILITY:
                        continue
                    visible += 1
                    overlap = _overlap(np.array(thing["boxes"][frame]), detections.boxes[sure])
                    if len(overlap) and overlap.max() > 0.55:
                        found += 1
                        overlaps.append(float(overlap.max()))
                        right += detections.labels[sure][overlap.argmax()] == thing["label"]
    assert 0.65 < found / visible < 0.85
    assert 0.85 < right / found < 0.97
    assert 0.2 < spurious / frames < 0.5
    assert 0.8 < np.mean(overlaps) < 0.98


def test_hidden_objects_are_never_found() -> None:
    detections = detect(
        np.random.default_rng(0),
        boxes=np.full((2, 50, 4), (10.0, 10.0, 30.0, 30.0)),
        visibility=np.zeros((2, 50)),
        labels=np.array([1, 2]),
        frame_times_seconds=np.arange(50) / 4,
        size=64,
        num_labels=10,
    )
    assert len(detections.scores) == 0 or detections.scores.max() < 0.41
    assert detections.boxes.dtype == np.float32 and detections.frame_index.dtype == np.int64
