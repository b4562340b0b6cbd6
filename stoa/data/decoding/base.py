"""What a video decoder gets, gives, and says when it cannot."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

Video = str | bytes
"""A video file: its path, or its content."""


class DecodeError(Exception):
    """A video that cannot give the wanted frames. ``str()`` says why, in one line, without the path.

    Attributes:
        kind: ``missing``, ``empty``, ``unreadable``, ``no video``, ``codec``, ``truncated``, ``corrupt``, ``time`` (it
            runs backwards, stands still or jumps), ``surplus`` (more frames than its packets announce), ``size`` (of
            the picture changes, or no model takes it), ``limit`` (it asks for more memory, frames or bytes than a clip
            may have), ``boxes`` (its detections cannot be read), ``range`` (no frame in the wanted part), ``crash``,
            ``hang`` or ``blamed`` (did one of these before).
    """

    def __init__(self, kind: str, message: str) -> None:
        super().__init__(kind, message)
        self.kind = kind

    def __str__(self) -> str:
        return str(self.args[1])


class FrameIndex(NamedTuple):
    """The frames of a video in the order of display, as its packets tell, before anything is decoded.

    Attributes:
        times_seconds: (F,) float64, ascending presentation times, the first 0.
        duration_seconds: from the first frame until the last one ends.
        pts: (F,) int64 presentation time stamps; None where the container has none that can be trusted (AVI) and
            frames are known by their number alone.
        keyframes: (F,) bool, where decoding can start.
        container, codec: FFmpeg's names.
        places_F: (F,) int64, number of each among all frames that decode, those never on display included: of frames
            with one time stamp the last alone is.
        packets: of frames, never displayed ones included.
        streams: of video, covers not counted.
        fault: why the container holds less than it promises; parts before its end are not touched by it.
        notes: what is odd about the file, and no fault.
    """

    times_seconds: np.ndarray
    duration_seconds: float
    pts: np.ndarray | None
    keyframes: np.ndarray
    container: str
    codec: str
    places_F: np.ndarray
    packets: int
    streams: int = 1
    fault: DecodeError | None = None
    notes: tuple[str, ...] = ()


class DecodedFrames(NamedTuple):
    """Frames as displayed (turns and mirrors applied).

    Attributes:
        frames_THWC: uint8 RGB.
        times_seconds: (T,) float64, presentation time of each frame, counted from the first frame.
        notes: what is odd about the clip, and no fault.
    """

    frames_THWC: np.ndarray
    times_seconds: np.ndarray
    notes: tuple[str, ...] = ()
