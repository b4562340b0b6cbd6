"""A part of a video as a file of its own."""

from __future__ import annotations

import math
from fractions import Fraction
from pathlib import Path

import av
import numpy as np

from stoa.data.decoding.base import DecodeError
from stoa.data.decoding.cpu import sought
from stoa.data.decoding.guard import Guard, alive
from stoa.data.decoding.opening import open_container, video_stream
from stoa.data.decoding.probe import probe
from stoa.files import replacing

_CLOCK = Fraction(1, 90_000)
_SECONDS_PER_CALL = 60.0
_SECONDS_AHEAD = 1.0  # that a decoder of sound may need to find itself


def cut(video: Path, start_seconds: float, end_seconds: float, out: Path) -> None:
    """Write the frames and the sound of [start, end) as H.264 and AAC in MP4, frames at their own times.

    Raises:
        ValueError: the video cannot be read there, or ``out`` is it; the message names it.
        StorageError: the disk refuses.
    """
    if out.exists() and out.samefile(video):
        raise ValueError(f"{out} is the video itself; name another file to cut to")
    guard = Guard(_SECONDS_PER_CALL, attempts=1)
    try:
        with replacing(out) as written:
            guard.call(_cut, str(video), start_seconds, end_seconds, str(written))
    except DecodeError as error:
        raise ValueError(f"{video} cannot be cut: {error}") from None
    finally:
        guard.close()


def _cut(video: str, start_seconds: float, end_seconds: float, out: str) -> None:
    index = probe(video)
    within = (index.times_seconds >= start_seconds - 1e-6) & (index.times_seconds < end_seconds - 1e-6)
    wanted = np.flatnonzero(within)
    if not len(wanted):
        raise DecodeError("range", f"no frame lies in {start_seconds:g} to {end_seconds:g} s")
    first = float(index.times_seconds[wanted[0]])
    with av.open(out, "w", format="mp4") as target:
        sound = target.add_stream("aac") if _has_sound(video) else None
        picture = None
        for number, frame_HWC in zip(wanted.tolist(), sought(video, index, wanted), strict=True):
            height, width = (side - side % 2 for side in frame_HWC.shape[:2])  # H.264 as players know it has even sides
            if picture is None:
                if not (height and width):
                    raise DecodeError("size", f"pictures of {frame_HWC.shape[1]} x {frame_HWC.shape[0]} cannot be cut")
                picture = target.add_stream("libx264", rate=_rate(index.times_seconds[wanted]))
                picture.width, picture.height, picture.pix_fmt = width, height, "yuv420p"
                picture.codec_context.time_base = _CLOCK
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(frame_HWC[:height, :width]), format="rgb24")
            frame.pts = round((float(index.times_seconds[number]) - first) / _CLOCK)
            frame.time_base = _CLOCK
            target.mux(picture.encode(frame))
            alive()
        assert picture is not None
        target.mux(picture.encode())
        if sound is not None:
            _copy_sound(video, first, end_seconds, target, sound)


def _has_sound(video: str) -> bool:
    with open_container(video) as container:
        return any(stream.codec_context is not None for stream in container.streams.audio)


def _copy_sound(
    video: str, start_seconds: float, end_seconds: float, target: av.container.OutputContainer, sound: av.AudioStream
) -> None:
    """What is heard in the part. Sound that cannot be decoded ends there; the pictures stay."""
    with open_container(video) as container:
        stream = next(stream for stream in container.streams.audio if stream.codec_context is not None)
        resampler = av.AudioResampler(format="fltp", layout="stereo", rate=sound.codec_context.sample_rate or 48_000)
        origin = _first_picture_seconds(video)
        written = 0
        try:
            container.seek(max(0, int((origin + start_seconds - _SECONDS_AHEAD) * av.time_base)))
            for frame in container.decode(stream):
                alive()
                if frame.time is None or frame.time - origin < start_seconds:
                    continue
                if frame.time - origin >= end_seconds:
                    break
                for piece in resampler.resample(frame):
                    piece.pts = written
                    written += piece.samples
                    target.mux(sound.encode(piece))
        except av.FFmpegError:
            pass
        target.mux(sound.encode())


def _first_picture_seconds(video: str) -> float:
    """On the clock of the container, on which the sound is too."""
    with open_container(video) as container:
        for frame in container.decode(video_stream(container)):
            return float(frame.time or 0.0)
    return 0.0


def _rate(times_seconds: np.ndarray) -> Fraction:
    """Frames per second, which a player shows and no time depends on."""
    steps = np.diff(times_seconds)
    step = float(np.median(steps)) if len(steps) else 0.04
    return Fraction(min(max(1 / step if step > 0 and math.isfinite(1 / step) else 25.0, 1.0), 240.0)).limit_denominator(
        1001
    )
