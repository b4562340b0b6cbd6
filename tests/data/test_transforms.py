"""Frames are resized as CLIP does it, and boxes follow them."""

import numpy as np
import pytest
from open_clip.transform import image_transform
from PIL import Image

from stoa.data.placement import boxes_to_model
from stoa.data.transforms import resize_and_crop


@pytest.mark.parametrize("height_width", [(240, 320), (321, 199), (64, 64), (50, 300)])
def test_frames_equal_open_clips_preprocessing(height_width):
    rng = np.random.default_rng(0)
    coarse = rng.integers(0, 256, (8, 8, 3), dtype=np.uint8)
    picture = Image.fromarray(coarse).resize(height_width[::-1], Image.Resampling.BICUBIC)
    expected = image_transform(64, is_train=False, mean=(0, 0, 0), std=(1, 1, 1))(picture) * 255
    ours = resize_and_crop(np.array(picture)[None], 64)[0]
    assert (ours.float() - expected).abs().max() <= 1


@pytest.mark.parametrize("height_width", [(120, 200), (200, 120), (128, 128), (90, 91)])
def test_boxes_follow_the_pixels(height_width):
    """A white rectangle is found where its box says."""
    height, width = height_width
    frame = np.zeros((height, width, 3), dtype=np.uint8)
    x1, y1, x2, y2 = width // 2 - 20, height // 2 - 30, width // 2 + 25, height // 2 + 10
    frame[y1:y2, x1:x2] = 255
    seen = resize_and_crop(frame[None], 96)[0].float().mean(dim=0).numpy() > 127
    rows, columns = np.flatnonzero(seen.any(1)), np.flatnonzero(seen.any(0))
    (box,), (usable,) = boxes_to_model(np.array([[x1, y1, x2, y2]]), height, width, 96)
    assert usable
    np.testing.assert_allclose(box * 96, [columns[0], rows[0], columns[-1] + 1, rows[-1] + 1], atol=1.01)


@pytest.mark.parametrize(
    ("box", "usable"),
    [
        ([10, 10, 50, 50], True),
        ([50, 10, 10, 50], False),  # x2 < x1
        ([10, 50, 50, 50], False),  # no height
        ([-50, -50, -10, -10], False),  # outside
        ([300, 10, 400, 50], False),
        ([-20, 10, 60, 50], True),  # partly outside: cut
        ([np.nan, 10, 50, 50], False),
        ([10, 10, np.inf, 50], False),
    ],
)
def test_malformed_boxes_are_dropped(box, usable):
    boxes, found = boxes_to_model(np.array([box], dtype=float), 100, 100, 64)
    assert found.tolist() == [usable]
    assert np.isfinite(boxes).all()
    assert ((boxes >= 0) & (boxes <= 1)).all()


def test_a_box_mostly_cropped_away_is_dropped():
    """Of 200 pixels in width the crop keeps 50..150."""
    boxes = np.array([[0, 0, 61, 50], [0, 0, 70, 50], [120, 0, 200, 50]])
    _, usable = boxes_to_model(boxes, 100, 200, 64)
    assert usable.tolist() == [False, True, True]


def test_no_boxes():
    boxes, usable = boxes_to_model(np.zeros((0, 4)), 100, 200, 64)
    assert boxes.shape == (0, 4)
    assert usable.shape == (0,)
