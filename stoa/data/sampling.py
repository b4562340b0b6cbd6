"""Which frames stand for a clip, and which detections for a frame. Time decides, never frame numbers."""

from __future__ import annotations

import numpy as np


def sample_times(start_seconds: float, end_seconds: float, num_frames: int) -> np.ndarray:
    """The middles of ``num_frames`` equal parts of [start, end), float64 seconds, ascending."""
    return start_seconds + (np.arange(num_frames) + 0.5) * (end_seconds - start_seconds) / num_frames


def frames_on_display(frame_times_seconds: np.ndarray, times_seconds: np.ndarray) -> np.ndarray:
    """For each time the index of the frame then on display: the last one not later, else the first.

    Args:
        frame_times_seconds: presentation times, ascending, at least one.
        times_seconds: wanted times.
    """
    tolerance = 1e-6  # presentation times are rationals that were rounded to float
    index = np.searchsorted(frame_times_seconds, times_seconds + tolerance, side="right") - 1
    return np.clip(index, 0, None)


def nearest_frames(frame_times_seconds: np.ndarray, times_seconds: np.ndarray) -> np.ndarray:
    """For each time the index of the nearest frame; the earlier one on a tie."""
    distance = np.abs(frame_times_seconds[None, :] - times_seconds[:, None])
    return distance.argmin(axis=1)
