"""Filtering against readable loops over the rules, and torchvision's non-maximum suppression."""

import numpy as np
import pytest
import torch
from torchvision.ops import batched_nms, box_iou, nms

from stoa.detections import Detections
from stoa.prepare.detections import FilterConfig, filter_detections

FRAMES, SIDE = 6, 100


def random_detections(seed: int, *, count: int = 120, classes: int = 8, whole: bool = False) -> Detections:
    """Boxes in any order of frames; with ``whole`` of whole pixels and few scores, which makes ties."""
    rng = np.random.default_rng(seed)
    boxes = np.sort(rng.uniform(0, SIDE, (count, 2, 2)), axis=1).reshape(count, 4)
    scores = rng.uniform(0, 1, count)
    if whole:
        boxes = np.floor(boxes / 10) * 10 + [0, 0, 10, 10]
        scores = np.round(scores, 1)
    return Detections(
        frame_times_seconds=np.arange(FRAMES, dtype=np.float64),
        frame_index=rng.integers(0, FRAMES - 1, count),
        boxes=boxes.astype(np.float32),
        labels=rng.integers(0, classes, count),
        scores=scores.astype(np.float32),
        size_wh=np.array((SIDE, SIDE)),
        true_labels=np.arange(count),  # tells which boxes were kept
    )


def iou(a, b) -> float:
    common = 1.0
    for axis in (0, 1):
        common *= max(0.0, min(a[axis + 2], b[axis + 2]) - max(a[axis], b[axis]))
    return common / (size(a) + size(b) - common)


def size(box) -> float:
    return float((box[2] - box[0]) * (box[3] - box[1]))


def slow_filter(found: Detections, config: FilterConfig) -> list[int]:
    """The boxes kept, by the words of the rules."""
    kept = []
    boxes = found.boxes.astype(np.float64)
    for frame in range(len(found.frame_times_seconds)):
        here = [i for i in range(len(boxes)) if found.frame_index[i] == frame]
        here = [i for i in here if found.scores[i] >= config.min_score]
        here = [i for i in here if size(boxes[i]) >= config.min_area * SIDE * SIDE]
        confident = sorted(here, key=lambda i: (-found.scores[i], i))
        if config.nms_iou is not None:
            chosen = []
            for i in confident:
                rivals = [j for j in chosen if found.labels[j] == found.labels[i]]
                if all(iou(boxes[i], boxes[j]) <= config.nms_iou for j in rivals):
                    chosen.append(i)
            confident = chosen
        if config.one_per_class:
            best = {}
            for i in confident:
                best.setdefault(found.labels[i], i)
            confident = [i for i in confident if i in best.values()]
        if config.rule == "top_k":
            kept += confident[: config.max_boxes]
            continue
        listed = []
        for i in sorted(confident):
            seen = found.labels[i] in [found.labels[j] for j in listed]
            if len(listed) < 2 * config.max_boxes and not seen and all(iou(boxes[i], boxes[j]) < 0.5 for j in listed):
                listed.append(i)
        listed.sort(key=lambda i: (-size(boxes[i]), -found.scores[i], i))
        kept += listed[: config.max_boxes]
    return kept


@pytest.mark.parametrize("rule", ["top_k", "released"])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"max_boxes": 3},
        {"min_score": 0.4, "min_area": 0.1},
        {"nms_iou": 0.3, "max_boxes": 50},
        {"one_per_class": True},
        {"nms_iou": 0.5, "one_per_class": True, "min_score": 0.1, "max_boxes": 4},
    ],
)
@pytest.mark.parametrize("whole", [False, True])
def test_as_the_words_of_the_rules_say(rule, options, whole):
    config = FilterConfig(rule=rule, **options)
    for seed in range(10):
        found = random_detections(seed, whole=whole, classes=40 if rule == "released" else 8)
        kept = filter_detections(found, config)
        assert kept.true_labels.tolist() == slow_filter(found, config)
        np.testing.assert_array_equal(kept.boxes, found.boxes[kept.true_labels])
        np.testing.assert_array_equal(kept.frame_index, found.frame_index[kept.true_labels])
        np.testing.assert_array_equal(kept.frame_times_seconds, found.frame_times_seconds)


@pytest.mark.parametrize("max_iou", [0.0, 0.2, 0.5, 0.9, 1.0])
@pytest.mark.parametrize("whole", [False, True])
def test_suppression_is_torchvisions(max_iou, whole):
    for seed in range(10):
        found = random_detections(seed, count=300, whole=whole)
        everything = FilterConfig(nms_iou=max_iou, max_boxes=len(found.labels))
        boxes, scores = torch.from_numpy(found.boxes).double(), torch.from_numpy(found.scores).double()
        groups = torch.from_numpy(found.frame_index * 1000 + found.labels)
        kept = filter_detections(found, everything).true_labels
        assert sorted(kept) == sorted(batched_nms(boxes, scores, groups, max_iou).tolist())
        frame = found.frame_index == 0
        one_class = Detections(
            found.frame_times_seconds,
            found.frame_index[frame],
            found.boxes[frame],
            np.zeros(frame.sum(), dtype=np.int64),
            found.scores[frame],
            found.size_wh,
            np.arange(frame.sum()),
        )
        assert (
            filter_detections(one_class, everything).true_labels.tolist()
            == nms(boxes[frame], scores[frame], max_iou).tolist()
        )
        survivors = torch.from_numpy(filter_detections(one_class, everything).boxes).double()
        assert (box_iou(survivors, survivors).fill_diagonal_(0) <= max_iou).all()


def test_a_clip_without_boxes_and_boxes_without_area():
    config = FilterConfig(rule="released", nms_iou=0.5, one_per_class=True)
    nothing = filter_detections(random_detections(0, count=0), config)
    assert nothing.boxes.shape == (0, 4) and len(nothing.frame_times_seconds) == FRAMES
    points = random_detections(0, count=20, classes=1)
    points.boxes[:, 2:] = points.boxes[:, :2]
    assert len(filter_detections(points, FilterConfig(nms_iou=0.1)).labels) == 20
    assert not len(filter_detections(points, FilterConfig(min_area=1e-6)).labels)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"rule": "best"}, "rule is 'best'; pass 'top_k' or 'released'"),
        ({"max_boxes": 0}, "max_boxes is 0; pass 1 or more"),
        ({"min_score": 1.5}, "min_score is 1.5; pass a number from 0 to 1"),
        ({"nms_iou": -0.1}, "nms_iou is -0.1; pass"),
        ({"min_area": float("nan")}, "min_area is nan; pass"),
    ],
)
def test_a_wrong_option_is_named(options, message):
    with pytest.raises(ValueError, match=message):
        FilterConfig(**options)
