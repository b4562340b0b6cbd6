"""Frames of a clip chosen but not decoded, for a decoder on the device.

Shape legend: T frames.
"""

from __future__ import annotations

import io
import os
from dataclasses import dataclass

import av
import numpy as np

from stoa.data.decoding.base import FrameIndex, Video
from stoa.data.decoding.clip import Look, PartReader, look_of, numbered_frames, open_part, remember
from stoa.data.decoding.limits import require_content
from stoa.data.decoding.opening import open_container, open_file, video_stream
from stoa.data.decoding.orientation import UPRIGHT, Orientation, orientation

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


def choose(
    video: Video, num_frames: int, start: float | None, end: float | None, vouched: bool = False
) -> EncodedFrames:
    """The frames that :func:`stoa.data.decoding.cpu.decode_clip` would decode. A part that this process has not met
    before is decoded for its verdict.

    Raises:
        DecodeError: the part is not sound, or its file too large to be held.
    """
    part = open_part(video, start, end)
    index, frames_T = part.index, part.choose(num_frames)
    look = look_of(video, part) or (_look_at_first(video, index) if vouched else None)
    if look is None:
        reader = PartReader(video, part)
        reader.judge()
        look = reader.look
        remember(video, part, look)
    content = _first_stream(video) if index.streams > 1 else _content(video)
    return EncodedFrames((content,), index.codec, index.places_F[frames_T], index.times_seconds[frames_T], *look)


def _content(video: Video) -> bytes:
    if isinstance(video, bytes):
        return video
    with open_file(video) as file:
        require_content(os.fstat(file.fileno()).st_size)
        return file.read()


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
