"""Frames of a clip chosen but not decoded, for a decoder on the device.

Shape legend: T frames.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import av
import numpy as np

from stoa.data.decoding.base import DecodeError, Video, as_file
from stoa.data.decoding.guard import Guard
from stoa.data.decoding.probe import as_decode_error, probe, video_stream
from stoa.data.sampling import clip_frames

JPEG = "jpeg"


@dataclass(frozen=True, slots=True)
class EncodedFrames:
    """Frames as they are stored.

    Attributes:
        files: one video file, or distinct JPEGs.
        codec: :data:`JPEG`, or FFmpeg's name for the video's.
        picks_T: (T,) int, of each frame its number in the video in the order of display, or that of its JPEG.
        times_seconds: (T,) float64, presentation time of each frame, counted from the first frame.
        size_hw: of the stored pictures.
        quarter_turns: counter-clockwise, from the stored picture to the displayed one.
    """

    files: tuple[bytes, ...]
    codec: str
    picks_T: np.ndarray
    times_seconds: np.ndarray
    size_hw: tuple[int, int]
    quarter_turns: int = 0

    @property
    def nbytes(self) -> int:
        """Of the files."""
        return sum(map(len, self.files))


def choose_guarded(
    guard: Guard | None, video: Video, num_frames: int, start: float | None, end: float | None
) -> EncodedFrames:
    """The frames that :func:`stoa.data.decoding.cpu.decode_guarded` would decode, chosen in the guard's process, where
    there is one.

    Raises:
        DecodeError: unreadable, truncated, or no frame in the wanted part.
    """
    arguments = video, num_frames, start, end
    facts = guard.call(_choose, *arguments) if guard is not None else _choose(*arguments)
    return EncodedFrames((video if isinstance(video, bytes) else Path(video).read_bytes(),), *facts)


def _choose(
    video: Video, num_frames: int, start: float | None, end: float | None
) -> tuple[str, np.ndarray, np.ndarray, tuple[int, int], int]:
    """The fields of :class:`EncodedFrames` after the first, so that the file itself does not travel back."""
    index = probe(video)
    frames_T = clip_frames(index, num_frames, start, end)
    try:
        with av.open(as_file(video), mode="r") as container:
            stream = video_stream(container)
            stream.thread_type = "NONE"
            first = next(container.decode(stream), None)  # PyAV tells the rotation by decoded frames alone
    except av.FFmpegError as error:
        raise as_decode_error(error) from None
    if first is None:
        raise DecodeError("corrupt", "PyAV: no frame decodes")
    turns = round(first.rotation / 90) % 4
    return index.codec, frames_T, index.times_seconds[frames_T], (first.height, first.width), turns
