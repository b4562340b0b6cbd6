"""Decoding on the CPU: decord, and PyAV for what decord cannot read."""

from __future__ import annotations

import os
from collections.abc import Callable

import av
import numpy as np

from stoa.data.decoding.base import DecodedFrames, DecodeError, clip_range
from stoa.data.sampling import frames_on_display, sample_times

# A file that stops before this share of what its header promises is truncated, not merely imprecise.
_COMPLETE_SHARE = 0.9


def decode_decord(
    path: str, num_frames: int, start_seconds: float | None = None, end_seconds: float | None = None
) -> DecodedFrames:
    """Decode with decord. See :class:`stoa.data.decoding.base.Decoder`."""
    import decord  # optional: there are no wheels for some platforms

    _require_content(path)
    try:
        reader = decord.VideoReader(path, num_threads=1)
        spans = np.asarray(reader.get_frame_timestamp(range(len(reader))), dtype=np.float64)
        order = np.argsort(spans[:, 0], kind="stable")
        frame_times = spans[order, 0] - spans[order[0], 0]
        duration = float(spans[:, 1].max() - spans[:, 0].min())
        start, end = clip_range(duration, start_seconds, end_seconds)
        index = frames_on_display(frame_times, sample_times(start, end, num_frames))
        frames = reader.get_batch(order[index]).asnumpy()
    except (decord.DECORDError, RuntimeError, IndexError) as error:
        raise DecodeError(f"decord: {_last_line(error)}") from None
    return DecodedFrames(frames, frame_times[index])


def decode_pyav(
    path: str, num_frames: int, start_seconds: float | None = None, end_seconds: float | None = None
) -> DecodedFrames:
    """Decode with PyAV in one sequential pass. See :class:`stoa.data.decoding.base.Decoder`."""
    _require_content(path)
    try:
        duration = _duration_seconds(path)
        start, end = clip_range(duration, start_seconds, end_seconds)
        return _decode_sequentially(path, sample_times(start, end, num_frames), duration)
    except (av.FFmpegError, ValueError, IndexError) as error:
        raise DecodeError(f"PyAV: {_last_line(error)}") from None


def decode_cpu(
    path: str,
    num_frames: int,
    start_seconds: float | None = None,
    end_seconds: float | None = None,
    *,
    on_fallback: Callable[[str], None] | None = None,
) -> DecodedFrames:
    """decord first, PyAV where that fails; ``on_fallback`` gets decord's reason when PyAV succeeds.

    Raises:
        DecodeError: the file is missing, empty, or neither reads it.
    """
    _require_content(path)
    try:
        return decode_decord(path, num_frames, start_seconds, end_seconds)
    except (DecodeError, ImportError) as error:
        reason = str(error)
    try:
        decoded = decode_pyav(path, num_frames, start_seconds, end_seconds)
    except DecodeError as error:
        raise DecodeError(f"{error}; {reason}") from None
    if on_fallback is not None:
        on_fallback(reason)
    return decoded


def _require_content(path: str) -> None:
    if not os.path.isfile(path):
        raise DecodeError("file does not exist")
    if os.path.getsize(path) == 0:
        raise DecodeError("file is empty (0 bytes)")


def _duration_seconds(path: str) -> float:
    """Duration of the video stream from its packets, without decoding."""
    with av.open(path) as container:
        stream = _video_stream(container)
        # Matroska, WebM and FLV state a duration for the file alone: its longest stream, sound as well.
        counted = [stream] if stream.duration else list(container.streams)
        ends = dict.fromkeys((s.index for s in counted), 0.0)
        for packet in container.demux(counted):
            if packet.pts is not None:
                shown_until = (packet.pts + (packet.duration or 0)) * float(packet.time_base)
                ends[packet.stream.index] = max(ends[packet.stream.index], shown_until)
        time_base = float(stream.time_base or 1)
        start, end = (stream.start_time or 0) * time_base, ends[stream.index]
        if stream.duration:
            promised, found = stream.duration * time_base, end - start
        else:
            promised = (container.duration or 0) / av.time_base
            found = max(ends.values()) - (container.start_time or 0) / av.time_base
    if not end:
        raise DecodeError("PyAV: no video packet")
    if found < _COMPLETE_SHARE * promised:
        raise DecodeError(f"PyAV: truncated: packets for {found:.2f} s, the header says {promised:.2f} s")
    return max(end - start, 1e-3)  # one frame without a duration still is a clip


def _decode_sequentially(path: str, times_seconds: np.ndarray, duration: float) -> DecodedFrames:
    frames: list[np.ndarray] = []
    times: list[float] = []
    with av.open(path) as container:
        stream = _video_stream(container)
        stream.thread_type = "NONE"
        shown: av.VideoFrame | None = None
        first = 0.0
        for frame in container.decode(stream):
            if shown is None:
                first = frame.time or 0.0
            elif frame.time is None:
                raise DecodeError("PyAV: a frame without a time stamp")
            # The frame on display at t is the last one not later: emit when a later one comes.
            while (
                len(times) < len(times_seconds)
                and shown is not None
                and frame.time - first > times_seconds[len(times)] + 1e-6
            ):
                frames.append(_to_rgb(shown))
                times.append((shown.time or 0.0) - first)
            shown = frame
            if len(times) == len(times_seconds):
                break
        if shown is None:
            raise DecodeError("PyAV: no frame decodes")
        last = (shown.time or 0.0) - first
        if len(times) < len(times_seconds) and last < _COMPLETE_SHARE * duration - 1.0:
            raise DecodeError(f"PyAV: truncated: frames end at {last:.2f} s of {duration:.2f} s")
        while len(times) < len(times_seconds):
            frames.append(_to_rgb(shown))
            times.append(last)
    return DecodedFrames(np.stack(frames), np.asarray(times))


def _video_stream(container: av.container.InputContainer) -> av.VideoStream:
    if not container.streams.video:
        raise DecodeError("PyAV: no video stream")
    return container.streams.video[0]


def _to_rgb(frame: av.VideoFrame) -> np.ndarray:
    return np.rot90(frame.to_ndarray(format="rgb24"), k=round(frame.rotation / 90))


def _last_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[-1][:200] if lines else type(error).__name__
