"""Decoding on the CPU: PyAV, which judges every clip, and decord for those who ask for it."""

from __future__ import annotations

import io
import os
import re
from collections.abc import Callable, Iterator

import av
import numpy as np
from av.video.reformatter import VideoReformatter

from stoa.data.config import CpuDecoder
from stoa.data.decoding.base import DecodedFrames, DecodeError, FrameIndex, Video
from stoa.data.decoding.clip import Look, Part, PartReader, look_of, numbered_frames, open_part, remember, to_rgb
from stoa.data.decoding.findings import as_decode_error, attempt
from stoa.data.decoding.guard import Guard, alive
from stoa.data.decoding.opening import open_container
from stoa.data.decoding.orientation import UPRIGHT

# Of others decord gives wrong pictures without an error: MPEG-PS and AVI with B-frames, HEVC after a seek.
_DECORD_CONTAINERS = {"mov", "matroska"}
_DECORD_PREFIX = re.compile(r"\[\d\d:\d\d:\d\d\] \S+:\d+: ")  # time and source line of its build
_DECORD_CODECS = {"h264", "vp8", "vp9"}


def decode_clip(
    video: Video,
    num_frames: int,
    start_seconds: float | None = None,
    end_seconds: float | None = None,
    *,
    decoder: CpuDecoder = "auto",
    vouched: bool = False,
    on_fallback: Callable[[str], None] | None = None,
) -> DecodedFrames:
    """Decode ``num_frames`` frames spread over [start, end); see :func:`stoa.data.sampling.clip_frames`.

    All of the part is decoded and judged the first time that this process meets it; after that, as long as the file
    does not change, the frames alone are sought.

    Args:
        video: path or content of the file.
        num_frames: at least 1; frames repeat where the video has fewer.
        start_seconds, end_seconds: of the part wanted, counted from the first frame; ``None`` is the file's own
            start or end.
        decoder: ``auto`` and ``pyav`` are the same; ``decord`` is used for what it can be trusted with.
        vouched: all of it has been decoded before, when the store was made that it is from.
        on_fallback: gets the reason where ``decord`` is asked for and PyAV takes its place.

    Raises:
        DecodeError: the part is not sound; which frames of it are wanted makes no difference.
    """
    part = open_part(video, start_seconds, end_seconds)
    frames_T = part.choose(num_frames)
    wanted, place_T = np.unique(frames_T, return_inverse=True)
    frames_NHWC, notes = _pictures(video, part, wanted, decoder, vouched, on_fallback or (lambda reason: None))
    frames_THWC = frames_NHWC if len(wanted) == num_frames else frames_NHWC[place_T]
    return DecodedFrames(frames_THWC, part.index.times_seconds[frames_T], notes)


def decode_guarded(
    guard: Guard | None,
    video: Video,
    num_frames: int,
    start: float | None,
    end: float | None,
    decoder: CpuDecoder,
    vouched: bool = False,
) -> tuple[DecodedFrames, str | None]:
    """:func:`decode_clip` in the guard's process, where there is one.

    Returns:
        the frames, and why decord was not used, if it was asked for.
    """
    return (attempt if guard is None else guard.call)(decode_and_tell, video, num_frames, start, end, decoder, vouched)


def decode_and_tell(
    video: Video, num_frames: int, start: float | None, end: float | None, decoder: CpuDecoder, vouched: bool
) -> tuple[DecodedFrames, str | None]:
    """:func:`decode_clip`, and why decord was not used, if it was asked for."""
    reasons: list[str] = []
    decoded = decode_clip(video, num_frames, start, end, decoder=decoder, vouched=vouched, on_fallback=reasons.append)
    return decoded, reasons[0] if reasons else None


def _pictures(
    video: Video,
    part: Part,
    wanted: np.ndarray,
    decoder: CpuDecoder,
    vouched: bool,
    on_fallback: Callable[[str], None],
) -> tuple[np.ndarray, tuple[str, ...]]:
    look, judged, notes = look_of(video, part), None, part.index.notes
    if look is None and not vouched:
        judged, notes, look = _judged(video, part, wanted)
    if decoder == "decord":
        try:
            if look is not None and look.orientation != UPRIGHT:
                raise DecodeError("codec", "decord: not trusted with turned or mirrored pictures")
            return _decode_decord(video, part.index, wanted), notes
        except (DecodeError, ImportError) as error:
            on_fallback(str(error))
    if judged is None:
        try:
            judged = seek_frames(video, part.index, wanted)
        except DecodeError:  # some files cannot be entered midway
            judged, notes, _ = _judged(video, part, wanted)
    return judged, notes


def _judged(video: Video, part: Part, wanted: np.ndarray) -> tuple[np.ndarray, tuple[str, ...], Look]:
    reader = PartReader(video, part)
    frames_NHWC = _stacked(reader.pictures(wanted), len(wanted))
    remember(video, part, reader.look)
    return frames_NHWC, tuple(reader.notes), reader.look


def _stacked(pictures: Iterator[np.ndarray], count: int) -> np.ndarray:
    """Pictures of one size, put together as they come: of large ones two copies would be too much."""
    first = next(pictures)
    frames_NHWC = np.empty((count, *first.shape), dtype=first.dtype)
    frames_NHWC[0] = first
    for number, picture in enumerate(pictures, start=1):
        if picture.shape != first.shape:
            raise DecodeError("size", "pictures of several sizes")
        frames_NHWC[number] = picture
    return frames_NHWC


def seek_frames(video: Video, index: FrameIndex, wanted: np.ndarray) -> np.ndarray:
    """Frames of a sound video by their numbers, ascending and distinct; uint8 RGB (N, H, W, C) as displayed. Decoding
    is taken up at those keyframes that save work.

    Raises:
        DecodeError: one of them is not reached so, or decodes otherwise than in a sound video.
    """
    try:
        return _stacked(sought(video, index, wanted), len(wanted))
    except av.FFmpegError as error:
        raise as_decode_error(error) from None


def sought(video: Video, index: FrameIndex, wanted: np.ndarray) -> Iterator[np.ndarray]:
    starts = np.flatnonzero(index.keyframes) if index.pts is not None else np.zeros(0, dtype=np.int64)
    shown: tuple[float, av.VideoFrame] | None = None
    ahead: tuple[float, av.VideoFrame] | None = None  # decoded already, not yet on display
    converter = VideoReformatter()
    with open_container(video) as container:
        coming = numbered_frames(container, index, _ignore)
        for number in wanted.tolist():
            start = starts[max(np.searchsorted(starts, number, side="right") - 1, 0)] if len(starts) else 0
            if start > 0 and (ahead or shown or (-1.0, None))[0] < start:
                assert index.pts is not None
                coming = numbered_frames(container, index, _ignore, int(index.pts[start]))
                shown = ahead = None
            # Of frames with one time stamp the last is on display, so the one after it has to be seen.
            while ahead is None or ahead[0] <= number:
                shown, ahead = ahead or shown, next(coming, None)
                if ahead is None:
                    break
                alive()
            if shown is None or shown[0] != number or shown[1].is_corrupt:
                raise DecodeError("corrupt", f"PyAV: frame {number} is not found by seeking")
            yield to_rgb(shown[1], converter)


def _ignore(error: av.FFmpegError) -> None:
    """What is lost by it is not found."""


def _decode_decord(video: Video, index: FrameIndex, wanted: np.ndarray) -> np.ndarray:
    import decord  # optional: there are no wheels for some platforms

    if index.container.split(",")[0] not in _DECORD_CONTAINERS or index.codec not in _DECORD_CODECS:
        raise DecodeError("codec", f"decord: not trusted with {index.codec} in {index.container}")
    if index.streams > 1:  # it cannot be told which one to read
        raise DecodeError("codec", "decord: not trusted with several video streams")
    try:
        reader = decord.VideoReader(_for_decord(video), num_threads=1)
        if len(reader) != index.packets:
            raise DecodeError("corrupt", f"decord: counts {len(reader)} frames of {index.packets}")
        return reader.get_batch(index.places_F[wanted]).asnumpy()
    except DecodeError:
        raise
    except Exception as error:  # whatever it is, PyAV takes its place
        raise DecodeError("corrupt", f"decord: {_last_line(error)}") from None


def _for_decord(video: Video) -> str | io.BytesIO:
    """Its FFmpeg would take what stands before a colon in a path for a protocol."""
    return io.BytesIO(video) if isinstance(video, bytes) else f"file:{os.path.abspath(video)}"


def _last_line(error: Exception) -> str:
    lines = _DECORD_PREFIX.sub("", str(error)).strip().splitlines()
    return lines[-1][:200] if lines else type(error).__name__
