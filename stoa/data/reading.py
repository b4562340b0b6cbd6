"""A clip from where it lies to its frames and boxes, in a process that may crash, hang or run out of memory.

Whatever it meets there is a finding about that clip; see :mod:`stoa.data.decoding.findings`. Needs no torch.
"""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple

import numpy as np

from stoa.data.boxes import ClipBoxes, ClipShape, boxes_on_frames
from stoa.data.clips import ClipPlace
from stoa.data.config import CpuDecoder
from stoa.data.decoding.base import DecodedFrames
from stoa.data.decoding.cpu import decode_and_tell
from stoa.data.decoding.encoded import EncodedFrames, choose
from stoa.data.decoding.findings import attempt
from stoa.data.decoding.guard import Guard
from stoa.data.media import FramePack, choose_of_pack, decode_pack
from stoa.manifest import ClipRow


class ReadClip(NamedTuple):
    """A clip with its frames and the boxes on them.

    Attributes:
        row: of the manifest, or as the store has it.
        frames: decoded, or as they are stored.
        boxes: on these frames.
        fallback: why decord was not used, if it was asked for.
    """

    row: ClipRow
    frames: DecodedFrames | EncodedFrames
    boxes: ClipBoxes
    fallback: str | None = None


def read_clip(guard: Guard | None, place: ClipPlace, shape: ClipShape, decoder: CpuDecoder) -> ReadClip:
    """Read a clip and decode its frames, in the guard's process where there is one.

    Raises:
        DecodeError: it is not sound.
        OSError: the storage does not answer.
    """
    read: ReadClip = (attempt if guard is None else guard.call)(_decode, place, shape, decoder)
    return read


def read_encoded(guard: Guard | None, place: ClipPlace, shape: ClipShape) -> ReadClip:
    """Read a clip and choose its frames, for a decoder on the device; a video is judged here. Raises as
    :func:`read_clip` does."""
    read, files = (attempt if guard is None else guard.call)(_choose, place, shape)
    return read._replace(frames=replace(read.frames, files=tuple(file.tobytes() for file in files)))


def _decode(place: ClipPlace, shape: ClipShape, decoder: CpuDecoder) -> ReadClip:
    clip, fallback = place.read(), None
    media = clip.media
    if isinstance(media, FramePack):
        frames = decode_pack(media, shape.num_frames)
    else:
        part = media.start_seconds, media.end_seconds
        frames, fallback = decode_and_tell(media.video, shape.num_frames, *part, decoder, media.vouched)
    return ReadClip(clip.row, frames, boxes_on_frames(clip.detections, frames.times_seconds, shape), fallback)


def _choose(place: ClipPlace, shape: ClipShape) -> tuple[ReadClip, list[np.ndarray]]:
    """The clip without its files, and these as arrays, which travel faster."""
    clip = place.read()
    media = clip.media
    if isinstance(media, FramePack):
        frames = choose_of_pack(media, shape.num_frames)
    else:
        frames = choose(media.video, shape.num_frames, media.start_seconds, media.end_seconds, media.vouched)
    boxes = boxes_on_frames(clip.detections, frames.times_seconds, shape)
    files = [np.frombuffer(file, dtype=np.uint8) for file in frames.files]
    return ReadClip(clip.row, replace(frames, files=()), boxes), files
