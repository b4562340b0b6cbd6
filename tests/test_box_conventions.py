"""Boxes say in which conventions they are written: a right reading is not doubted, a wrong one is met by its option."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stoa.box_conventions import Conventions, Evidence
from stoa.detections import Detections

FORMATS = ("xyxy", "xywh", "yxyx", "yxhw")
UNITS = ("pixels", "normalised")


def random_boxes(seed: int, count: int, width: int, height: int) -> np.ndarray:
    """Corners in pixels, everywhere in the frame and of all sizes above 4 pixels."""
    random = np.random.default_rng(seed)
    size = random.uniform(4, [0.8 * width, 0.8 * height], (count, 2))
    corner = random.uniform(0, [width, height] - size)
    return np.concatenate([corner, corner + size], axis=1)


def written(corners: np.ndarray, box_format: str, units: str, width: int, height: int) -> np.ndarray:
    boxes = corners / [width, height, width, height] if units == "normalised" else corners.copy()
    if box_format in ("xywh", "yxhw"):
        boxes[:, 2:] -= boxes[:, :2]
    return boxes[:, [1, 0, 3, 2]] if box_format in ("yxyx", "yxhw") else boxes


def evidence(boxes, conventions, size_wh, scores=None):
    found = Evidence(conventions)
    found.add("f", boxes, np.full(len(boxes), 0.9) if scores is None else scores, size_wh)
    return found


_frames = st.sampled_from([(96, 64), (640, 480), (1920, 1080), (720, 1280)])


@given(seed=st.integers(0, 10**6), count=st.integers(1, 50), size=_frames, data=st.data())
def test_what_is_read_as_it_is_written_is_right_and_not_doubted(seed, count, size, data):
    box_format, units = data.draw(st.sampled_from(FORMATS)), data.draw(st.sampled_from(UNITS))
    corners = random_boxes(seed, count, *size)
    conventions = Conventions(box_format=box_format, units=units)
    boxes = written(corners, box_format, units, *size)
    np.testing.assert_allclose(conventions.corners(boxes, np.tile(size, (count, 1))), corners, rtol=1e-9, atol=1e-6)
    for known in (size, None):
        assert evidence(boxes, conventions, known).doubt() is None


@given(seed=st.integers(0, 10**6), count=st.integers(1, 60), size=_frames, box_format=st.sampled_from(FORMATS))
def test_shares_and_pixels_are_told_apart(seed, count, size, box_format):
    corners = random_boxes(seed, count, *size)
    for units, other in (UNITS, UNITS[::-1]):
        doubt = evidence(written(corners, box_format, other, *size), Conventions(units=units), None).doubt()
        assert (doubt.option, doubt.value) == ("units", other)
        assert f"of {count}, such as [" in doubt.finding


@given(
    seed=st.integers(0, 10**6),
    size=st.sampled_from([(640, 480), (720, 1280)]),
    units=st.sampled_from(UNITS),
    right=st.sampled_from(FORMATS),
    wrong=st.sampled_from(FORMATS),
)
def test_another_format_is_met_by_its_option(size, units, right, wrong, seed):
    boxes = written(random_boxes(seed, 200, *size), right, units, *size)
    doubt = evidence(boxes, Conventions(box_format=wrong, units=units), size).doubt()
    if right == wrong:
        assert doubt is None
    elif units == "pixels" or {right, wrong} not in ({"xyxy", "yxyx"}, {"xywh", "yxhw"}):  # shares are the same swapped
        assert doubt.option == "box_format"
        if units == "pixels":
            assert doubt.value == right
    assert evidence(boxes, Conventions(box_format=wrong, units=units, asked=True), size).doubt() is None


@given(seed=st.integers(0, 10**6), bad=st.integers(0, 5))
def test_some_bad_boxes_are_no_convention(seed, bad):
    boxes = random_boxes(seed, 60, 640, 480)
    wrong = [[300, 200, 100, 100], [np.nan] * 4, [0, 0, 1, 1], [700, 500, 800, 600], [-50, -50, -1, -1]]
    boxes[:bad] = np.array(wrong)[:bad]
    assert evidence(boxes, Conventions(), (640, 480)).doubt() is None


def test_boxes_of_larger_frames_and_percentages():
    boxes = random_boxes(0, 50, 1920, 1080)
    assert evidence(boxes, Conventions(), (320, 240)).doubt().option == "frame_size"
    percent = evidence(boxes, Conventions(), None, np.linspace(20, 99, 50)).doubt()
    assert (percent.option, percent.value) == ("max_score", "100")
    assert evidence(boxes, Conventions(max_score=100), None).doubt()[1:] == ("max_score", "1")
    assert Evidence(Conventions()).doubt() is None


@given(seed=st.integers(0, 10**6), count=st.integers(1, 9))
def test_a_file_of_detections_is_in_pixels(seed, count):
    shares = random_boxes(seed, count, 640, 480) / [640, 480, 640, 480]
    fields = {"frame_times_seconds": np.zeros(1), "frame_index": np.zeros(count, np.int64)}
    fields |= {"labels": np.zeros(count, np.int64), "scores": np.ones(count, np.float32)}
    fields |= {"size_wh": np.array([640, 480])}
    with pytest.raises(ValueError, match=r"boxes lie between 0 and 1, .* multiply them by size_wh, \[640, 480\]"):
        Detections(boxes=shares.astype(np.float32), **fields)
    Detections(boxes=(shares * 640).astype(np.float32), **fields)
