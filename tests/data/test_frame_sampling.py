"""Frames are chosen by time."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stoa.data.sampling import frames_on_display, nearest_frames, sample_times


def test_times_are_the_middles_of_equal_parts():
    np.testing.assert_allclose(sample_times(2.0, 6.0, 4), [2.5, 3.5, 4.5, 5.5])


@given(
    gaps=st.lists(st.floats(0.001, 2.0), min_size=1, max_size=40),
    wanted=st.lists(st.floats(-1.0, 50.0), min_size=1, max_size=20),
)
def test_the_frame_on_display_is_the_last_not_later(gaps, wanted):
    times = np.cumsum(gaps)
    for t, index in zip(wanted, frames_on_display(times, np.asarray(wanted)), strict=True):
        later = [i for i, frame in enumerate(times) if frame <= t + 1e-6]
        assert index == (later[-1] if later else 0)


def test_variable_frame_rate_is_sampled_by_time():
    """Nine frames in the first second and one in the second: half of the samples are the last frame."""
    times = np.array([*np.arange(9) / 9, 1.0])
    assert (frames_on_display(times, sample_times(0.0, 2.0, 8)) == 9).sum() == 4


@pytest.mark.parametrize(("time", "index"), [(0.0, 0), (0.24, 0), (0.25, 0), (0.26, 1), (9.0, 2)])
def test_the_nearest_detection_wins_and_ties_go_back(time, index):
    assert nearest_frames(np.array([0.0, 0.5, 1.0]), np.array([time]))[0] == index
