"""Which frames a video has, read from its packets without decoding: one truth for every decoder."""

from __future__ import annotations

import os
from functools import lru_cache

import av
import av.container
import numpy as np

from stoa.data.decoding.base import DecodeError, FrameIndex, Video
from stoa.data.decoding.findings import as_decode_error, as_finding
from stoa.data.decoding.guard import alive
from stoa.data.decoding.limits import require_frames
from stoa.data.decoding.opening import open_container, open_file, video_stream, video_streams

# A file that stops before this share of what its header promises is truncated, not merely imprecise.
COMPLETE_SHARE = 0.9
# H.264 and HEVC show a frame after at most so many that are stored later.
_MOST_REORDERED = 16
_LONGEST_FRAME_SECONDS, _SHORTEST_FRAME_SECONDS = 3600.0, 1e-4
_PACKETS_BETWEEN_SIGNS = 4096
_VP8_SHOWN = 0x10  # of a packet's first byte


def probe(video: Video) -> FrameIndex:
    """Read the frames' times from the packets. The last few files' are remembered as long as their state is the same.

    Raises:
        DecodeError: the file is missing, no video, has no video stream, or its time makes no sense.
    """
    if isinstance(video, bytes):
        return _probe(video)
    with open_file(video):  # which says what is wrong with its path
        state = file_state(video)
    return _probe_state(video, state)


def duration(path: str) -> tuple[float, str]:
    """Of what is there, in seconds, and why it is less than the file promises, if it is. Raises as :func:`probe`."""
    index = probe(path)
    return index.duration_seconds, "" if index.fault is None else str(index.fault)


def file_state(path: str) -> tuple[int, int, int]:
    """What changes when a file does."""
    status = os.stat(path)
    return status.st_size, status.st_mtime_ns, status.st_ino


@lru_cache(maxsize=4)  # clips that are parts of one file often follow each other
def _probe_state(path: str, state: tuple[int, int, int]) -> FrameIndex:
    return _probe(path)


def _probe(video: Video) -> FrameIndex:
    try:
        with open_container(video) as container:
            return _frame_index(container)
    except (av.FFmpegError, UnicodeDecodeError) as error:
        raise as_finding(error) from None


def _frame_index(container: av.container.InputContainer) -> FrameIndex:
    stream = video_stream(container)
    # Matroska, WebM and FLV state a duration for the file alone: that of its longest stream, sound as well.
    counted = [stream] if stream.duration else list(container.streams)
    codec = stream.codec_context.name
    pts: list[int] = []
    ends: list[int] = []
    keys: list[bool] = []
    longest = 0.0
    fault: DecodeError | None = None
    require_frames(stream.frames, container.size)
    try:
        for number, packet in enumerate(container.demux(counted)):
            if number % _PACKETS_BETWEEN_SIGNS == 0:
                require_frames(number, container.size)
                alive()
            if packet.pts is None or packet.is_discard or not packet.size:
                continue
            end = packet.pts + (packet.duration or 0)
            longest = max(longest, end * float(packet.time_base))
            if packet.stream is stream and not (codec == "vp8" and not memoryview(packet)[0] & _VP8_SHOWN):
                pts.append(packet.pts)
                ends.append(end)
                keys.append(packet.is_keyframe)
    except av.FFmpegError as error:
        found_error = as_decode_error(error)
        if isinstance(found_error, OSError):
            raise found_error from None
        fault = found_error
    if not pts:
        raise fault or DecodeError("truncated" if stream.duration else "no video", "PyAV: no video packet")
    time_base = float(stream.time_base or 1)
    if stream.duration:
        promised, found = stream.duration * time_base, (max(ends) - (stream.start_time or 0)) * time_base
    else:
        promised, found = (container.duration or 0) / av.time_base, longest - (container.start_time or 0) / av.time_base
    if fault is None and found < COMPLETE_SHARE * promised:
        fault = DecodeError(
            "truncated", f"PyAV: truncated: packets for {found:.2f} s, the header says {promised:.2f} s"
        )
    count, keyframes = len(pts), np.array(keys, dtype=bool)
    streams = len(video_streams(container))
    notes = [f"{streams} video streams, of which the first is used"] if streams > 1 else []
    rest = container.format.name, codec
    if container.format.name == "avi":
        places = np.arange(count)
        rate = float(stream.average_rate or 25)
        _require_pace(places / rate, count / rate)
        return FrameIndex(places / rate, count / rate, None, keyframes, *rest, places, count, streams, fault, (*notes,))
    in_order = np.array(pts, dtype=np.int64)
    stamps, first = np.unique(in_order, return_index=True)
    notes += _require_order(in_order, len(stamps))
    duration = (max(ends) - int(stamps[0])) * time_base
    _require_pace((stamps.astype(np.float64) - float(stamps[0])) * time_base, duration)  # whose differences fit
    times = (stamps - stamps[0]) * time_base
    _require_no_jump(times, found, promised)
    if duration <= times[-1]:  # the last packet says not how long it lasts
        duration = times[-1] + (times[-1] / (len(times) - 1) if len(times) > 1 else 1e-3)
    places = np.searchsorted(np.sort(in_order), stamps, side="right") - 1
    return FrameIndex(times, float(duration), stamps, keyframes[first], *rest, places, count, streams, fault, (*notes,))


def _require_order(pts: np.ndarray, distinct: int) -> list[str]:
    """Notes on time stamps, which are in the order of decoding.

    Raises:
        DecodeError: time runs backwards, or stands still for more than a tenth of the frames.
    """
    count = len(pts)
    ranks = np.empty(count, dtype=np.int64)
    ranks[np.argsort(pts, kind="stable")] = np.arange(count)
    back = np.flatnonzero(ranks < np.arange(count) - _MOST_REORDERED)
    if len(back):
        raise DecodeError("time", f"time runs backwards: packet {back[0]} of {count} is earlier than those before it")
    repeated = count - distinct
    if repeated > max(1, (1 - COMPLETE_SHARE) * count):
        raise DecodeError("time", f"time stands still: {count} frames have {distinct} time stamps")
    return [f"{repeated} of {count} frames have the time stamp of another, and are never on display"] * (repeated > 0)


def _require_pace(times: np.ndarray, duration: float) -> None:
    """Frames that stand for hours, or for no time at all, are not what the file's times say.

    Raises:
        DecodeError: there are such.
    """
    stands = np.diff(np.append(times, max(duration, times[-1])))
    longest = int(np.argmax(stands))
    if stands[longest] > _LONGEST_FRAME_SECONDS:
        raise DecodeError("time", f"time jumps by {stands[longest]:.0f} s after frame {longest}")
    if len(times) > 1 and times[-1] < (len(times) - 1) * _SHORTEST_FRAME_SECONDS:
        raise DecodeError("time", f"time stands still: {len(times)} frames in {times[-1]:.6f} s")


def _require_no_jump(times: np.ndarray, found: float, promised: float) -> None:
    """One frame that stands for what the header does not know of is a damaged time stamp.

    Raises:
        DecodeError: there is one.
    """
    excess = found - promised / COMPLETE_SHARE
    if promised > 0 and excess > 1 and len(times) > 1:
        longest = int(np.argmax(np.diff(times)))
        jump = times[longest + 1] - times[longest]
        if jump > excess / 2:
            raise DecodeError(
                "time", f"time jumps by {jump:.2f} s after frame {longest}, past the {promised:.2f} s of the header"
            )
