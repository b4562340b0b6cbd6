"""Decoding on the CPU: decord, and PyAV for what decord cannot read."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import Literal, NamedTuple

import av
import av.container
import numpy as np

from stoa.data.decoding.base import DecodedFrames, DecodeError, FrameIndex, Video, as_file
from stoa.data.decoding.guard import Guard
from stoa.data.decoding.probe import COMPLETE_SHARE, as_decode_error, probe, video_stream
from stoa.data.sampling import clip_frames

CpuDecoder = Literal["auto", "decord", "pyav"]
# Of others decord gives wrong pictures without an error: MPEG-PS and AVI with B-frames, HEVC after a seek.
_DECORD_CONTAINERS = {"mov", "matroska"}
# From this share on PyAV, which seeks to them too, is the quicker one.
_MANY_KEYFRAMES = 1 / 16
_DECORD_PREFIX = re.compile(r"\[\d\d:\d\d:\d\d\] \S+:\d+: ")  # time and source line of its build
_DECORD_CODECS = {"h264", "vp8", "vp9"}


def decode_clip(
    video: Video,
    num_frames: int,
    start_seconds: float | None = None,
    end_seconds: float | None = None,
    *,
    decoder: CpuDecoder = "auto",
    index: FrameIndex | None = None,
    on_fallback: Callable[[str], None] | None = None,
) -> DecodedFrames:
    """Decode ``num_frames`` frames spread over [start, end); see :func:`stoa.data.sampling.clip_frames`.

    Args:
        video: path or content of the file.
        num_frames: at least 1; frames repeat where the video has fewer.
        start_seconds, end_seconds: of the part wanted, counted from the first frame; ``None`` is the file's own
            start or end.
        decoder: ``auto`` is decord where it can be trusted and is quick, PyAV for the rest.
        index: the video's frames, where they are known; else they are read from its packets.
        on_fallback: gets decord's reason when PyAV succeeds in its place.

    Raises:
        DecodeError: unreadable, truncated, or no frame in the wanted part.
    """
    index = index or probe(video)
    frames_T = clip_frames(index, num_frames, start_seconds, end_seconds)
    return DecodedFrames(
        decode_frames(video, index, frames_T, decoder=decoder, on_fallback=on_fallback), index.times_seconds[frames_T]
    )


def decode_guarded(
    guard: Guard | None, video: Video, num_frames: int, start: float | None, end: float | None, decoder: CpuDecoder
) -> tuple[DecodedFrames, str | None]:
    """:func:`decode_clip` in the guard's process, where there is one.

    Returns:
        the frames, and why ``auto`` did not use decord, if so.
    """
    arguments = video, num_frames, start, end, decoder
    return guard.call(_decode_and_tell, *arguments) if guard is not None else _decode_and_tell(*arguments)


def _decode_and_tell(
    video: Video, num_frames: int, start: float | None, end: float | None, decoder: CpuDecoder
) -> tuple[DecodedFrames, str | None]:
    reasons: list[str] = []
    decoded = decode_clip(video, num_frames, start, end, decoder=decoder, on_fallback=reasons.append)
    return decoded, reasons[0] if reasons else None


def decode_frames(
    video: Video,
    index: FrameIndex,
    frames_T: np.ndarray,
    *,
    decoder: CpuDecoder = "auto",
    on_fallback: Callable[[str], None] | None = None,
) -> np.ndarray:
    """Decode frames by their number in the order of display, any order, repeats allowed.

    Returns:
        uint8 RGB (T, H, W, C), rotation applied.

    Raises:
        DecodeError: one of them does not decode.
    """
    if decoder == "pyav" or (decoder == "auto" and index.keyframes[1:].sum() > _MANY_KEYFRAMES * len(index.keyframes)):
        return _decode_pyav(video, index, frames_T)
    try:
        return _decode_decord(video, index, frames_T)
    except (DecodeError, ImportError) as error:
        if decoder == "decord":
            raise
        reason = str(error)
    try:
        frames_THWC = _decode_pyav(video, index, frames_T)
    except DecodeError as error:
        raise DecodeError(error.kind, f"{error}; {reason}") from None
    if on_fallback is not None:
        on_fallback(reason)
    return frames_THWC


def read_frames(video: Video, index: FrameIndex, first: int = 0, stop: int | None = None) -> Iterator[np.ndarray]:
    """Frames ``first`` to ``stop`` one by one, each uint8 RGB (H, W, C), decoded with PyAV from the file's start.
    A lost frame is left out.

    Raises:
        DecodeError: none of them decodes, or the container cannot be read that far.
    """
    lost = True
    for number, frame in _all_frames(video, index):
        if stop is not None and number >= stop:
            break
        if number >= first:
            lost = False
            yield _to_rgb(frame)
    if lost:
        raise DecodeError("corrupt", "PyAV: none of the wanted frames decodes")


class FrameCount(NamedTuple):
    """How many frames of a file decode, and how many of these the decoder marks as damaged."""

    decoded: int
    damaged: int


def count_frames(video: Video, index: FrameIndex) -> FrameCount:
    """Decode a whole file with PyAV, one frame in memory at a time.

    Raises:
        DecodeError: none of the file's frames decodes, or its container cannot be read to the end.
    """
    decoded = damaged = 0
    layout = None
    for _, frame in _all_frames(video, index):
        decoded += 1
        damaged += frame.is_corrupt
        # Whether it converts depends on its layout alone, and converting every frame takes as long as decoding.
        if layout != (layout := (frame.format.name, frame.width, frame.height)):
            _to_rgb(frame)
    return FrameCount(decoded, damaged)


def _all_frames(video: Video, index: FrameIndex) -> Iterator[tuple[float, av.VideoFrame]]:
    try:
        with av.open(as_file(video), mode="r") as container:
            stream = video_stream(container)
            stream.thread_type = "NONE"
            yield from _numbered(_decodable(container, stream), index)
    except av.FFmpegError as error:
        raise as_decode_error(error) from None


def _decodable(container: av.container.InputContainer, stream: av.VideoStream) -> Iterator[av.VideoFrame]:
    """The frames of the packets that decode: after a damaged one the next may be sound."""
    first_error, count = None, 0
    for packet in container.demux(stream):
        try:
            frames = packet.decode()
        except av.FFmpegError as error:
            first_error = first_error or error
            continue
        count += len(frames)
        yield from frames
    if count == 0:
        raise first_error or DecodeError("corrupt", "PyAV: no frame decodes")


def _decode_decord(video: Video, index: FrameIndex, frames_T: np.ndarray) -> np.ndarray:
    import decord  # optional: there are no wheels for some platforms

    if index.container.split(",")[0] not in _DECORD_CONTAINERS or index.codec not in _DECORD_CODECS:
        raise DecodeError("codec", f"decord: not trusted with {index.codec} in {index.container}; use auto or pyav")
    try:
        reader = decord.VideoReader(as_file(video), num_threads=1)
        if len(reader) != len(index.times_seconds):
            raise DecodeError("corrupt", f"decord: counts {len(reader)} frames of {len(index.times_seconds)}")
        return reader.get_batch(frames_T).asnumpy()
    except (decord.DECORDError, RuntimeError, IndexError) as error:
        raise DecodeError("corrupt", f"decord: {_last_line(error)}") from None


def _decode_pyav(video: Video, index: FrameIndex, frames_T: np.ndarray) -> np.ndarray:
    wanted, place_T = np.unique(frames_T, return_inverse=True)
    starts = np.flatnonzero(index.keyframes) if index.pts is not None else np.zeros(0, dtype=np.int64)
    try:
        try:
            pictures = _pictures(video, index, wanted, starts)
        except (DecodeError, av.FFmpegError):
            if not len(starts):
                raise
            pictures = _pictures(video, index, wanted, starts[:0])  # some files cannot be entered midway
    except av.FFmpegError as error:
        raise as_decode_error(error) from None
    frames_THWC = np.stack(pictures)
    return frames_THWC if len(wanted) == len(frames_T) else frames_THWC[place_T]


def _pictures(video: Video, index: FrameIndex, wanted: np.ndarray, starts: np.ndarray) -> list[np.ndarray]:
    """The ``wanted`` frames, ascending numbers. Decoding is taken up at those of ``starts`` that save work."""
    count = len(index.times_seconds)
    with av.open(as_file(video), mode="r") as container:
        stream = video_stream(container)
        stream.thread_type = "NONE"
        coming = _numbered(container.decode(stream), index)
        shown: tuple[float, av.VideoFrame] | None = None
        ahead: tuple[float, av.VideoFrame] | None = None  # decoded already, not yet on display
        pictures = []
        for number in wanted:
            start = starts[max(np.searchsorted(starts, number, side="right") - 1, 0)] if len(starts) else 0
            latest = ahead or shown or (-1.0, None)
            if start > 0 and latest[0] < start:
                assert index.pts is not None
                container.seek(int(index.pts[start]), stream=stream)
                coming, shown, ahead = _numbered(container.decode(stream), index), None, None
            # The frame on display is the last one not later than its time: a lost one leaves that before it.
            while ahead is None or ahead[0] <= number:
                shown, ahead = ahead or shown, next(coming, None)
                if ahead is None:
                    break
            if shown is None:
                raise DecodeError("corrupt", f"PyAV: frame {number} of {count} does not decode")
            if ahead is None and shown[0] < COMPLETE_SHARE * number - 1:
                raise DecodeError("truncated", f"PyAV: truncated: {shown[0] + 1:.0f} of {count} frames decode")
            pictures.append(_to_rgb(shown[1]))
        return pictures


def _numbered(frames: Iterator[av.VideoFrame], index: FrameIndex) -> Iterator[tuple[float, av.VideoFrame]]:
    """Frames with their numbers in the order of display; between two numbers where a time stamp is in no packet."""
    for count, frame in enumerate(frames):
        if index.pts is None:
            yield count, frame
        elif frame.pts is None:
            raise DecodeError("corrupt", "PyAV: a frame without a time stamp")
        else:
            number = np.searchsorted(index.pts, frame.pts)
            exact = number < len(index.pts) and index.pts[number] == frame.pts
            yield float(number) if exact else number - 0.5, frame


def _to_rgb(frame: av.VideoFrame) -> np.ndarray:
    return np.rot90(frame.to_ndarray(format="rgb24"), k=round(frame.rotation / 90))


def _last_line(error: Exception) -> str:
    lines = _DECORD_PREFIX.sub("", str(error)).strip().splitlines()
    return lines[-1][:200] if lines else type(error).__name__
