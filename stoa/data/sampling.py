"""Which frames stand for a clip, and which detections for a frame. Time decides, never frame numbers."""

from __future__ import annotations

import numpy as np

from stoa.data.decoding.base import DecodeError, FrameIndex


def clip_frames(
    index: FrameIndex, num_frames: int, start_seconds: float | None = None, end_seconds: float | None = None
) -> np.ndarray:
    """Numbers of the frames on display at :func:`sample_times` of [start, end), int64 (num_frames,), ascending.

    Args:
        index: frames of the video.
        num_frames: at least 1; numbers repeat where there are fewer frames.
        start_seconds, end_seconds: of the part, counted from the first frame; ``None`` is the video's start or end.

    Raises:
        DecodeError: the part starts after the video's end.
    """
    start, end = clip_range(index, start_seconds, end_seconds)
    return frames_on_display(index.times_seconds, sample_times(start, end, num_frames))


def clip_range(index: FrameIndex, start_seconds: float | None, end_seconds: float | None) -> tuple[float, float]:
    """[start, end) cut to the video, in seconds.

    Raises:
        DecodeError: the part starts after the video's end.
    """
    start = start_seconds or 0.0
    end = index.duration_seconds if end_seconds is None else min(end_seconds, index.duration_seconds)
    if start >= end:
        raise DecodeError(
            "range", f"start_seconds {start:g} is not before the end of the video at {index.duration_seconds:g} s"
        )
    return start, end


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
