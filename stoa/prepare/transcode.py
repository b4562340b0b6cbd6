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
from stoa.data.decoding.cpu import decode_frames, read_frames
from stoa.data.decoding.probe import probe
from stoa.data.sampling import clip_range, frames_on_display, sample_times

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
    """

    files: dict[str, bytes]
    times_seconds: list[float]
    duration_seconds: float
    size_wh: tuple[int, int]
    source_size_wh: tuple[int, int]
    source_seconds: float


def to_frames(
    video: Video, start_seconds: float | None, end_seconds: float | None, num_slots: int, side: int, quality: int
) -> Transcoded:
    """JPEG frames on display at the middles of ``num_slots`` equal parts of [start, end); each distinct one once.

    Raises:
        DecodeError: the video does not decode.
    """
    index = probe(video)
    start, end = clip_range(index, start_seconds, end_seconds)
    numbers = np.unique(frames_on_display(index.times_seconds, sample_times(start, end, num_slots)))
    frames_THWC = decode_frames(video, index, numbers)
    height, width = frames_THWC.shape[1:3]
    size = fit(width, height, side)
    digits = len(str(num_slots - 1))
    files = {f"{i:0{digits}d}.jpg": _jpeg(frame, size, quality) for i, frame in enumerate(frames_THWC)}
    times = np.maximum(index.times_seconds[numbers] - start, 0.0)
    return Transcoded(files, times.tolist(), end - start, size, (width, height), index.duration_seconds)


def to_video(
    video: Video, start_seconds: float | None, end_seconds: float | None, side: int, gop: int, crf: int
) -> Transcoded:
    """H.264 of [start, end) with a keyframe every ``gop`` frames; every frame keeps its time.

    Raises:
        DecodeError: the video does not decode to the end.
    """
    index = probe(video)
    start, end = clip_range(index, start_seconds, end_seconds)
    first = int(frames_on_display(index.times_seconds, np.array([start]))[0])
    stop = max(int(np.searchsorted(index.times_seconds, end - 1e-6)), first + 1)
    times = np.maximum(index.times_seconds[first:stop] - start, 0.0)
    frames = read_frames(video, index, first, stop)
    head = next(frames)
    source = head.shape[1], head.shape[0]
    width, height = (max(length - length % 2, 2) for length in fit(*source, side))
    content = _encode(head, frames, times, end - start, (width, height), gop, crf)
    written = probe(content)
    if len(written.times_seconds) != len(times) or np.abs(written.times_seconds - times).max() > 1e-3:
        raise DecodeError("corrupt", f"{len(written.times_seconds)} of {len(times)} frames could be re-encoded")
    return Transcoded({"mp4": content}, times.tolist(), end - start, (width, height), source, index.duration_seconds)


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

        count = 0
        for count, pixels in enumerate(itertools.chain([head], rest)):
            frame = av.VideoFrame.from_image(_resized(pixels, size_wh))
            frame.pts, frame.time_base = int(ticks[count]), _TIME_BASE
            mux(stream.encode(frame))
        mux(stream.encode())
    if count + 1 != len(times):
        raise DecodeError("truncated", f"{count + 1} of {len(times)} frames decode")
    return file.getvalue()
