"""A clip made ready for training: a pack of JPEG frames, or a small video with many keyframes.

Runs in a guard's process, so nothing here imports torch.
"""

from __future__ import annotations

import io
import itertools
from collections.abc import Iterator
from fractions import Fraction
from typing import NamedTuple

import av
import numpy as np
from PIL import Image

from stoa.data.decoding.base import DecodeError, Video
from stoa.data.decoding.clip import PartReader, open_part
from stoa.data.decoding.probe import probe

_TIME_BASE = Fraction(1, 90_000)  # divides all common frame rates


class Transcoded(NamedTuple):
    """A clip as a store holds it.

    Attributes:
        files: content by what follows the clip's key in a file name.
        times_seconds: presentation time of each frame, from the clip's start, ascending, the first 0.
        duration_seconds: of the clip.
        size_wh: of the stored frames.
        source_size_wh: of the frames as displayed.
        source_seconds: duration of the whole file.
        notes: what is odd about it, and no fault.
    """

    files: dict[str, bytes]
    times_seconds: list[float]
    duration_seconds: float
    size_wh: tuple[int, int]
    source_size_wh: tuple[int, int]
    source_seconds: float
    notes: tuple[str, ...] = ()


def to_frames(
    video: Video, start_seconds: float | None, end_seconds: float | None, num_slots: int, side: int, quality: int
) -> Transcoded:
    """JPEG frames on display at the middles of ``num_slots`` equal parts of [start, end); each distinct one once.

    Raises:
        DecodeError: the part is not sound.
    """
    part = open_part(video, start_seconds, end_seconds)
    index, start, end = part.index, part.start_seconds, part.end_seconds
    numbers = np.unique(part.choose(num_slots))
    digits = len(str(num_slots - 1))
    files: dict[str, bytes] = {}
    reader = PartReader(video, part)
    for i, frame_HWC in enumerate(reader.pictures(numbers)):
        height, width = frame_HWC.shape[:2]
        files[f"{i:0{digits}d}.jpg"] = _jpeg(frame_HWC, fit(width, height, side), quality)
    times = np.maximum(index.times_seconds[numbers] - start, 0.0)
    seconds, notes = index.duration_seconds, tuple(reader.notes)
    return Transcoded(files, times.tolist(), end - start, fit(width, height, side), (width, height), seconds, notes)


def to_video(
    video: Video, start_seconds: float | None, end_seconds: float | None, side: int, gop: int, crf: int
) -> Transcoded:
    """H.264 of [start, end) with a keyframe every ``gop`` frames; every frame on display keeps its time.

    Raises:
        DecodeError: the part is not sound.
    """
    part = open_part(video, start_seconds, end_seconds)
    index, start, end = part.index, part.start_seconds, part.end_seconds
    numbers = np.arange(part.first, part.stop)
    ticks = np.round(np.maximum(index.times_seconds[numbers] - start, 0.0) / float(_TIME_BASE)).astype(np.int64)
    numbers = numbers[np.append(np.diff(ticks) > 0, True)]  # a frame that stands for less than a tick is never seen
    times = np.maximum(index.times_seconds[numbers] - start, 0.0)
    reader = PartReader(video, part)
    frames = reader.pictures(numbers)
    head = next(frames)
    source = head.shape[1], head.shape[0]
    width, height = (max(length - length % 2, 2) for length in fit(*source, side))
    content = _encode(head, frames, times, end - start, (width, height), gop, crf)
    written = probe(content)
    if len(written.times_seconds) != len(times) or np.abs(written.times_seconds - times).max() > 1e-3:
        raise DecodeError("corrupt", f"{len(written.times_seconds)} of {len(times)} frames could be re-encoded")
    seconds, notes = index.duration_seconds, tuple(reader.notes)
    return Transcoded({"mp4": content}, times.tolist(), end - start, (width, height), source, seconds, notes)


def fit(width: int, height: int, side: int) -> tuple[int, int]:
    """Size with the shorter side at ``side``; smaller frames stay as they are."""
    shorter = min(width, height)
    if shorter <= side:
        return width, height
    return round(width * side / shorter), round(height * side / shorter)


def _jpeg(frame_HWC: np.ndarray, size_wh: tuple[int, int], quality: int) -> bytes:
    file = io.BytesIO()
    _resized(frame_HWC, size_wh).save(file, "JPEG", quality=quality)
    return file.getvalue()


def _resized(frame_HWC: np.ndarray, size_wh: tuple[int, int]) -> Image.Image:
    picture = Image.fromarray(np.ascontiguousarray(frame_HWC))
    return picture if picture.size == size_wh else picture.resize(size_wh, Image.Resampling.BICUBIC)


def _encode(
    head: np.ndarray,
    rest: Iterator[np.ndarray],
    times: np.ndarray,
    duration: float,
    size_wh: tuple[int, int],
    gop: int,
    crf: int,
) -> bytes:
    ticks = np.round(np.append(times, duration) / float(_TIME_BASE)).astype(np.int64)
    ticks[-1] = max(ticks[-1], ticks[-2] + 1)
    file = io.BytesIO()
    with av.open(file, "w", format="mp4") as container:
        # Without B-frames stored order is display order, and nothing waits for a later frame.
        options = {"g": str(gop), "keyint_min": str(gop), "sc_threshold": "0", "bf": "0", "crf": str(crf)}
        stream = container.add_stream("libx264", options={**options, "preset": "veryfast", "tune": "fastdecode"})
        stream.width, stream.height = size_wh
        stream.pix_fmt = "yuv420p"
        stream.time_base = stream.codec_context.time_base = _TIME_BASE
        stream.codec_context.thread_count = 1

        def mux(packets: list[av.Packet]) -> None:
            for packet in packets:
                assert packet.pts is not None
                shown_until = ticks[np.searchsorted(ticks, packet.pts, side="right")]
                packet.duration = int(shown_until) - packet.pts
                container.mux(packet)

        for pixels, tick in zip(itertools.chain([head], rest), ticks, strict=False):
            frame = av.VideoFrame.from_image(_resized(pixels, size_wh))
            frame.pts, frame.time_base = int(tick), _TIME_BASE
            mux(stream.encode(frame))
        mux(stream.encode())
    return file.getvalue()
