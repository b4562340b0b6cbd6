"""Which frames a video has, read from its packets without decoding: one truth for every decoder."""

from __future__ import annotations

import av
import av.container
import numpy as np

from stoa.data.decoding.base import DecodeError, FrameIndex, Video, as_file
from stoa.files import OF_STORAGE

# A file that stops before this share of what its header promises is truncated, not merely imprecise.
COMPLETE_SHARE = 0.9


def probe(video: Video) -> FrameIndex:
    """Read the frames' times from the packets.

    Raises:
        DecodeError: the file is missing, no video, has no video stream, or ends long before its header says.
    """
    try:
        with av.open(as_file(video), mode="r") as container:
            return _frame_index(container)
    except av.FFmpegError as error:
        raise as_decode_error(error) from None
    except UnicodeDecodeError:  # PyAV reads names in it
        raise DecodeError("unreadable", "PyAV: what should be text in its header is none") from None


def video_stream(container: av.container.InputContainer) -> av.VideoStream:
    """The first video stream that is no cover picture and that has a decoder.

    Raises:
        DecodeError: there is none.
    """
    streams = [s for s in container.streams.video if not s.disposition & av.stream.Disposition.attached_pic]
    if not streams:
        raise DecodeError("no video", "no video stream")
    if streams[0].codec_context is None:
        raise DecodeError("codec", "no decoder for its codec")
    return streams[0]


def as_decode_error(error: av.FFmpegError) -> DecodeError | OSError:
    """FFmpeg's error by class: what cannot be opened is unreadable, what cannot be decoded is corrupt. For storage that
    does not answer no video is to blame."""
    if error.errno in OF_STORAGE:
        return OSError(error.errno, error.strerror, error.filename)
    if isinstance(error, (av.error.DecoderNotFoundError, av.error.PatchWelcomeError)):
        return DecodeError("codec", f"PyAV: {error.strerror}")
    in_codec = "avcodec" in str(error)
    return DecodeError("corrupt" if in_codec else "unreadable", f"PyAV: {error.strerror}")


def _frame_index(container: av.container.InputContainer) -> FrameIndex:
    stream = video_stream(container)
    # Matroska, WebM and FLV state a duration for the file alone: that of its longest stream, sound as well.
    counted = [stream] if stream.duration else list(container.streams)
    pts: list[int] = []
    ends: list[int] = []
    keys: list[bool] = []
    longest = 0.0
    for packet in container.demux(counted):
        if packet.pts is None or packet.is_discard:
            continue
        end = packet.pts + (packet.duration or 0)
        longest = max(longest, end * float(packet.time_base))
        if packet.stream is stream:
            pts.append(packet.pts)
            ends.append(end)
            keys.append(packet.is_keyframe)
    if not pts:
        raise DecodeError("truncated" if stream.duration else "no video", "PyAV: no video packet")
    time_base = float(stream.time_base or 1)
    if stream.duration:
        promised, found = stream.duration * time_base, (max(ends) - (stream.start_time or 0)) * time_base
    else:
        promised, found = (container.duration or 0) / av.time_base, longest - (container.start_time or 0) / av.time_base
    if found < COMPLETE_SHARE * promised:
        raise DecodeError("truncated", f"PyAV: truncated: packets for {found:.2f} s, the header says {promised:.2f} s")
    names = container.format.name, stream.codec_context.name
    if container.format.name == "avi":
        times = np.arange(len(pts)) / float(stream.average_rate or 25)
        duration = len(pts) / float(stream.average_rate or 25)
        return FrameIndex(times, duration, None, np.array(keys, dtype=bool), *names)
    stamps, first = np.unique(np.array(pts, dtype=np.int64), return_index=True)
    times = (stamps - stamps[0]) * time_base
    duration = (max(ends) - int(stamps[0])) * time_base
    if duration <= times[-1]:  # the last packet says not how long it lasts
        duration = times[-1] + (times[-1] / (len(times) - 1) if len(times) > 1 else 1e-3)
    return FrameIndex(times, float(duration), stamps, np.array(keys, dtype=bool)[first], *names)
