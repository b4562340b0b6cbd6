"""The frames of a part of a video, or a finding: one pass and one verdict for all who want some of them."""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

import av
import numpy as np
from av.video.reformatter import VideoReformatter

from stoa.data.decoding.base import DecodeError, FrameIndex, Video
from stoa.data.decoding.findings import as_decode_error
from stoa.data.decoding.guard import alive
from stoa.data.decoding.limits import DAMAGED_SHARE, PICTURE_PX, require_picture
from stoa.data.decoding.opening import open_container, video_stream
from stoa.data.decoding.orientation import Orientation, orientation
from stoa.data.decoding.probe import file_state, probe
from stoa.data.sampling import clip_frames, clip_range, frames_on_display

_Layout = tuple[str, int, int, tuple[Orientation, bool]]
_MOST_REMEMBERED = 1 << 18


@dataclass(frozen=True, slots=True)
class Part:
    """Of a video.

    Attributes:
        index: the frames of the whole.
        start_seconds, end_seconds: of the part, cut to the video, counted from its first frame.
        first, stop: numbers of the frames on display in it, ``stop`` excluded.
        entry: the number to decode from, a keyframe's.
    """

    index: FrameIndex
    start_seconds: float
    end_seconds: float
    first: int
    stop: int
    entry: int

    def choose(self, num_frames: int) -> np.ndarray:
        """Numbers of the frames that stand for it, (num_frames,); see :func:`stoa.data.sampling.clip_frames`."""
        return np.minimum(clip_frames(self.index, num_frames, self.start_seconds, self.end_seconds), self.stop - 1)


def open_part(video: Video, start_seconds: float | None, end_seconds: float | None) -> Part:
    """Find the frames of [start, end); ``None`` is the video's own start or end.

    Raises:
        DecodeError: the video is unreadable, it is cut off before the part ends, or the part lies outside of it.
    """
    index = probe(video)
    if index.fault is not None and (end_seconds is None or end_seconds > index.duration_seconds):
        raise DecodeError(index.fault.kind, str(index.fault))  # the index is kept, and would hold what raised its own
    start, end = clip_range(index, start_seconds, end_seconds)
    first = int(frames_on_display(index.times_seconds, np.array([start]))[0])
    stop = max(int(np.searchsorted(index.times_seconds, end - 1e-6)), first + 1)
    entries = np.flatnonzero(index.keyframes[: first + 1]) if index.pts is not None else np.zeros(0, dtype=np.int64)
    return Part(index, start, end, first, stop, int(entries[-1]) if len(entries) else 0)


class Look(NamedTuple):
    """How the pictures of a sound part look: their stored size, and how it is turned for display."""

    size_hw: tuple[int, int]
    orientation: Orientation


class PartReader:
    """Decodes a part with PyAV from its keyframe to its end and judges all of it, whichever frames are wanted.

    Attributes:
        expected: frames by the packets, from the keyframe on.
        decoded: frames of these that have decoded so far.
        notes: what is odd and no fault, so far.
    """

    def __init__(self, video: Video, part: Part) -> None:
        self.part = part
        self.expected = part.stop - part.entry
        self.decoded = 0
        self.notes = list(part.index.notes)
        self._video = video
        self._damaged = self._surplus = 0
        self._layout: _Layout | None = None
        self._converter = VideoReformatter()
        # Whether a frame converts depends on its layout alone, and converting takes as long as decoding: of each layout
        # one is converted, a wanted one if there is any.
        self._unconverted: dict[_Layout, av.VideoFrame] = {}
        self._look: Look | None = None
        self._first_error: av.FFmpegError | None = None

    def pictures(self, wanted: np.ndarray) -> Iterator[np.ndarray]:
        """The frames of these numbers, ascending and distinct, one by one; each uint8 RGB (H, W, C) as displayed.

        Raises:
            DecodeError: the part is not sound. Pictures that have been given by then are not to be used.
        """
        rest = iter(wanted.tolist())
        due = next(rest, None)
        try:
            for number, frame in self._on_display():
                if number == due:
                    yield to_rgb(frame, self._converter)
                    self._unconverted.pop(_layout(frame), None)
                    due = next(rest, None)
            for frame in self._unconverted.values():
                to_rgb(frame, self._converter)
        except av.FFmpegError as error:
            raise as_decode_error(error) from None
        self._judge()
        assert due is None

    def judge(self) -> None:
        """Decode the part for its verdict alone. Raises as :meth:`pictures` does."""
        for _ in self.pictures(np.zeros(0, dtype=np.int64)):
            pass

    @property
    def look(self) -> Look:
        """Of the pictures, once they are decoded."""
        assert self._look is not None
        return self._look

    def _on_display(self) -> Iterator[tuple[int, av.VideoFrame]]:
        """The part's frames with their numbers, ascending. Of those with one time stamp only the last is displayed."""
        held: tuple[int, av.VideoFrame] | None = None
        for number, frame in self._entered():
            if number >= self.part.stop:
                break
            self._look_at(frame)
            if number < (held[0] if held else self.part.entry):
                raise DecodeError("time", f"time runs backwards after {self.decoded} frames")
            if number != int(number):
                self._surplus += 1
                continue
            if held is None or held[0] != number:
                self.decoded += 1
                if held is not None:
                    yield held
            held = int(number), frame
        if held is not None:
            yield held

    def _entered(self) -> Iterator[tuple[float, av.VideoFrame]]:
        """Numbered frames from the part's keyframe on; from the file's start where it cannot be entered there."""
        entry, index = self.part.entry, self.part.index
        if entry > 0:
            assert index.pts is not None
            with open_container(self._video) as container:
                coming = numbered_frames(container, index, self._remember_error, int(index.pts[entry]))
                try:
                    head = next((frame for frame in coming if frame[0] >= entry), None)
                except (av.FFmpegError, DecodeError):
                    head = None
                if head is not None and head[0] == entry:
                    yield head
                    yield from coming
                    return
        begun = False
        with open_container(self._video) as container:
            for number, frame in numbered_frames(container, index, self._remember_error):
                if begun := begun or number >= entry:
                    yield number, frame

    def _look_at(self, frame: av.VideoFrame) -> None:
        alive()
        self._damaged += frame.is_corrupt
        layout = _layout(frame)
        if layout == self._layout:
            return
        turned, exact = layout[3]
        size = turned.shape(frame.height, frame.width)
        if self._look is None:
            require_picture(*size)
            self._look = Look((frame.height, frame.width), turned)
        before = self._look.orientation.shape(*self._look.size_hw)
        if size != before:
            raise DecodeError(
                "size",
                f"picture size changes from {before[1]}x{before[0]} to {size[1]}x{size[0]} after {self.decoded} frames",
            )
        if not exact:
            note = "its display matrix is no quarter turn or mirror; the nearest one is applied"
            self.notes += [note] * (note not in self.notes)
        self._unconverted.setdefault(layout, frame)
        self._layout = layout

    def _remember_error(self, error: av.FFmpegError) -> None:
        # Without its traceback, in which this reader, and with it the file, would be held.
        self._first_error = self._first_error or error.with_traceback(None)

    def _judge(self) -> None:
        if not self.decoded:
            reason = f": {self._first_error.strerror}" if self._first_error is not None else ""
            if self._first_error is not None and self._first_error.errno == errno.EINVAL:  # FFmpeg's word for it
                reason += f", or pictures of more than {PICTURE_PX:,} pixels"
            raise DecodeError("corrupt", f"PyAV: none of {self.expected} frames decodes{reason}")
        # Where frames are known by their order alone, a lost one makes others of all that follow.
        if self.decoded < self.expected or (self.part.index.pts is None and self._first_error is not None):
            raise DecodeError("corrupt", f"{self.decoded} of {self.expected} frames decode")
        if self._surplus:
            raise DecodeError(
                "surplus", f"{self._surplus} more frames decode than the {self.expected} that its packets announce"
            )
        if self._damaged:
            finding = f"{self._damaged} of {self.decoded} frames decode damaged"
            if self._damaged > DAMAGED_SHARE * self.decoded:
                raise DecodeError("corrupt", finding)
            self.notes.append(finding)


def look_of(video: Video, part: Part) -> Look | None:
    """Of a part that this process has found sound; None before that, and once the file has changed."""
    return _sound.get(_key(video, part)) if isinstance(video, str) else None


def remember(video: Video, part: Part, look: Look) -> None:
    """Keep in mind that a part is sound."""
    if isinstance(video, str):
        if len(_sound) >= _MOST_REMEMBERED:
            del _sound[next(iter(_sound))]
        _sound[_key(video, part)] = look


_sound: dict[object, Look] = {}


def _key(video: str, part: Part) -> object:
    return video, file_state(video), part.first, part.stop


def numbered_frames(
    container: av.container.InputContainer,
    index: FrameIndex,
    on_error: Callable[[av.FFmpegError], None],
    seek_to: int | None = None,
) -> Iterator[tuple[float, av.VideoFrame]]:
    """Frames as they decode, with their numbers in the order of display; between two numbers where a time stamp is in
    no packet.

    Args:
        on_error: gets the error of each packet that does not decode: after a damaged one the next may be sound.
        seek_to: time stamp of a keyframe to begin at; None goes on where the container is.

    Raises:
        DecodeError: a frame has no time stamp.
        av.FFmpegError: the container cannot be read.
    """
    stream = video_stream(container)
    if not stream.codec_context.is_open:
        stream.thread_type = "NONE"
    if seek_to is not None:
        container.seek(seek_to, stream=stream)
    count = 0
    for packet in container.demux(stream):
        if not packet.size and packet.pts is not None:  # FFmpeg would take it for the end
            continue
        try:
            frames = packet.decode()
        except av.FFmpegError as error:
            if error.errno == errno.ENOMEM:  # which is no damage, and says nothing of the next
                raise
            on_error(error)
            continue
        for frame in frames:
            yield _number(frame, count, index), frame
            count += 1


def _number(frame: av.VideoFrame, count: int, index: FrameIndex) -> float:
    if index.pts is None:
        return count if count < len(index.times_seconds) else len(index.times_seconds) - 0.5
    if frame.pts is None:
        raise DecodeError("corrupt", "PyAV: a frame without a time stamp")
    number = int(np.searchsorted(index.pts, frame.pts))
    exact = number < len(index.pts) and index.pts[number] == frame.pts
    return number if exact else number - 0.5


def _layout(frame: av.VideoFrame) -> _Layout:
    return frame.format.name, frame.width, frame.height, orientation(frame)


def to_rgb(frame: av.VideoFrame, converter: VideoReformatter) -> np.ndarray:
    """As displayed, uint8 RGB (H, W, C).

    Args:
        converter: one for all frames of a clip. A frame's own one starts threads, which stay, with their memory, until
            Python next looks for cycles: some hundred frames later a guard has no memory left to decode with.
    """
    return orientation(frame)[0].apply(converter.reformat(frame, format="rgb24", threads=1).to_ndarray())
