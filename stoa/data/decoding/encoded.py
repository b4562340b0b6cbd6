"""Frames of a clip chosen but not decoded, for a decoder on the device.

Shape legend: T frames.
"""

from __future__ import annotations

import io
from dataclasses import dataclass
from pathlib import Path

import av
import numpy as np

from stoa.data.decoding.base import FrameIndex, Video
from stoa.data.decoding.clip import Look, PartReader, look_of, numbered_frames, open_part, remember
from stoa.data.decoding.findings import attempt
from stoa.data.decoding.guard import Guard
from stoa.data.decoding.orientation import UPRIGHT, Orientation, orientation
from stoa.data.decoding.probe import open_container, video_stream

JPEG = "jpeg"


@dataclass(frozen=True, slots=True)
class EncodedFrames:
    """Frames as they are stored.

    Attributes:
        files: one video file, or distinct JPEGs.
        codec: :data:`JPEG`, or FFmpeg's name for the video's.
        picks_T: (T,) int, of each frame its number among all that decode, in the order of display, or that of its JPEG.
        times_seconds: (T,) float64, presentation time of each frame, counted from the first frame.
        size_hw: of the stored pictures.
        orientation: from the stored picture to the displayed one.
    """

    files: tuple[bytes, ...]
    codec: str
    picks_T: np.ndarray
    times_seconds: np.ndarray
    size_hw: tuple[int, int]
    orientation: Orientation = UPRIGHT

    @property
    def nbytes(self) -> int:
        """Of the files."""
        return sum(map(len, self.files))


def choose_guarded(
    guard: Guard | None, video: Video, num_frames: int, start: float | None, end: float | None, vouched: bool = False
) -> EncodedFrames:
    """The frames that :func:`stoa.data.decoding.cpu.decode_guarded` would decode, chosen in the guard's process, where
    there is one. A part that this process has not met before is decoded there for its verdict.

    Raises:
        DecodeError: the part is not sound.
    """
    stream, *facts = (attempt if guard is None else guard.call)(_choose, video, num_frames, start, end, vouched)
    if stream is None:
        stream = video if isinstance(video, bytes) else Path(video).read_bytes()
    return EncodedFrames((stream,), *facts)


def _choose(
    video: Video, num_frames: int, start: float | None, end: float | None, vouched: bool
) -> tuple[bytes | None, str, np.ndarray, np.ndarray, tuple[int, int], Orientation]:
    """The fields of :class:`EncodedFrames`; None for the file itself, which so does not travel back."""
    part = open_part(video, start, end)
    index, frames_T = part.index, part.choose(num_frames)
    look = look_of(video, part) or (_look_at_first(video, index) if vouched else None)
    if look is None:
        reader = PartReader(video, part)
        reader.judge()
        look = reader.look
        remember(video, part, look)
    stream = _first_stream(video) if index.streams > 1 else None
    return stream, index.codec, index.places_F[frames_T], index.times_seconds[frames_T], *look


def _look_at_first(video: Video, index: FrameIndex) -> Look | None:
    """Of the first frame, for all; None where that does not decode."""
    with open_container(video) as container:
        first = next(numbered_frames(container, index, lambda error: None), None)
    return None if first is None else Look((first[1].height, first[1].width), orientation(first[1])[0])


def _first_stream(video: Video) -> bytes:
    """A file with that video stream alone which all decoders are to read: DALI cannot be told."""
    file = io.BytesIO()
    with open_container(video) as source, av.open(file, "w", format="matroska") as target:
        stream = video_stream(source)
        copy = target.add_stream_from_template(stream)
        for packet in source.demux(stream):
            if packet.dts is not None:
                packet.stream = copy
                target.mux(packet)
    return file.getvalue()
