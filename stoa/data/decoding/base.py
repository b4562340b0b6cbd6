"""What a video decoder promises."""

from __future__ import annotations

from typing import NamedTuple, Protocol

import numpy as np


class DecodeError(Exception):
    """A video that cannot give the wanted frames. ``str()`` says why, in one line, without the path."""


class DecodedFrames(NamedTuple):
    """Frames as displayed (rotation applied).

    Attributes:
        frames_THWC: uint8 RGB.
        times_seconds: (T,) float64, presentation time of each frame, counted from the first frame.
    """

    frames_THWC: np.ndarray
    times_seconds: np.ndarray


class Decoder(Protocol):
    """Frames of one file by time."""

    def __call__(
        self, path: str, num_frames: int, start_seconds: float | None, end_seconds: float | None
    ) -> DecodedFrames:
        """Decode ``num_frames`` frames spread over [start, end) as :mod:`stoa.data.sampling` says.

        Args:
            path: of the video file.
            num_frames: at least 1; frames repeat where the video has fewer.
            start_seconds, end_seconds: of the part wanted, counted from the first frame; ``None`` is the
                file's own start or end.

        Raises:
            DecodeError: unreadable, truncated, or no frame in the wanted part.
        """
        ...


def clip_range(duration_seconds: float, start_seconds: float | None, end_seconds: float | None) -> tuple[float, float]:
    """The wanted part cut to the video.

    Raises:
        DecodeError: the part starts after the video's end.
    """
    start = start_seconds or 0.0
    end = duration_seconds if end_seconds is None else min(end_seconds, duration_seconds)
    if start >= end:
        raise DecodeError(f"start_seconds {start:g} is not before the end of the video at {duration_seconds:g} s")
    return start, end
