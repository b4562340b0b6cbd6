"""How videos are cut for an index."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from stoa.search.config import WindowConfig
from stoa.search.windows import still, windows_of


@given(st.floats(0.001, 2000), st.floats(0.5, 60), st.floats(0.1, 1))
def test_windows_cover_a_video(duration, seconds, share):
    config = WindowConfig(seconds=seconds, step_seconds=seconds * share)
    windows = windows_of(duration, config)
    assert windows[0].start_seconds == 0
    assert windows[-1].end_seconds == pytest.approx(duration)
    assert all(start < end <= duration + 1e-9 for start, end in windows)
    assert len(windows) < 2 + duration / config.step_seconds
    for before, after in zip(windows, windows[1:], strict=False):
        assert before.start_seconds < after.start_seconds <= before.end_seconds + 2e-3 * config.step_seconds
    assert all(
        w.end_seconds - w.start_seconds == pytest.approx(min(seconds, duration), abs=2e-3 * config.step_seconds)
        for w in windows
    )


@pytest.mark.parametrize(
    ("duration", "starts"),
    [(0.1, [0]), (10, [0]), (10.004, [0]), (15, [0, 5]), (17, [0, 5, 7]), (20, [0, 5, 10])],
)
def test_the_last_window_ends_with_the_video(duration, starts):
    windows = windows_of(duration, WindowConfig())
    assert [start for start, _ in windows] == pytest.approx(starts)
    assert windows[-1].end_seconds == pytest.approx(duration)


def test_three_hours_have_two_thousand_windows():
    assert len(windows_of(3 * 3600, WindowConfig())) == 2159


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"seconds": 0}, "windows.seconds is 0; expected a number above 0"),
        ({"seconds": float("nan")}, "windows.seconds is nan"),
        ({"step_seconds": -1.0}, "windows.step_seconds is -1.0"),
        ({"seconds": 2.0, "step_seconds": 3.0}, "make the step at most the length"),
    ],
)
def test_bad_values_are_named(given, message):
    with pytest.raises(ValueError, match=message):
        WindowConfig(**given)


def test_a_still_window_is_one_whose_frames_are_alike():
    generator = torch.Generator().manual_seed(0)
    picture = torch.randint(0, 255, (1, 3, 16, 16), generator=generator, dtype=torch.uint8)
    noisy = picture.repeat(4, 1, 1, 1)
    noisy[1:, :, ::4] ^= 1  # what a codec makes of one picture
    moving = noisy.clone()
    moving[2, :, 4:12] = moving[2, :, 4:12].flip(-1)  # and back: the last frame is as the first
    assert still(torch.stack([noisy, moving])).tolist() == [True, False]
