"""A clip's pictures as they are stored, and the frames of it that a model wants.

Shape legend: T frames, H height, W width, C channels.
"""

from __future__ import annotations

import contextlib
import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image

from stoa.data.decoding.base import DecodedFrames, DecodeError, Video
from stoa.data.decoding.encoded import JPEG, EncodedFrames
from stoa.data.decoding.guard import alive
from stoa.data.decoding.limits import require_picture
from stoa.data.sampling import frames_on_display, sample_times

_END_OF_JPEG = b"\xff\xd9"


@dataclass(frozen=True, slots=True)
class VideoMedia:
    """A video file, of which [start, end) is the clip; ``None`` is the file's own start or end. One that is
    ``vouched`` for is of a store, and was made of frames that had all been decoded."""

    video: Video
    start_seconds: float | None = None
    end_seconds: float | None = None
    vouched: bool = False


@dataclass(frozen=True, slots=True)
class FramePack:
    """JPEG frames of a clip cut into ``num_slots`` equal parts: those on display at the parts' middles.

    Attributes:
        jpegs: the distinct frames, in order.
        times_seconds: (F,) presentation time of each, from the clip's start.
        duration_seconds: of the clip.
        num_slots: parts.
    """

    jpegs: Sequence[bytes]
    times_seconds: np.ndarray
    duration_seconds: float
    num_slots: int

    def choose(self, num_frames: int) -> np.ndarray:
        """Numbers of the frames for ``num_frames`` equal parts, (num_frames,): of the slot in which the middle of the
        part lies, so the time is off by half a slot at most."""
        slot_T = (2 * np.arange(num_frames) + 1) * self.num_slots // (2 * num_frames)
        slots_P = sample_times(0.0, self.duration_seconds, self.num_slots)
        return frames_on_display(self.times_seconds, slots_P[slot_T])


def decode_pack(pack: FramePack, num_frames: int) -> DecodedFrames:
    """Decode frames of a pack.

    Raises:
        DecodeError: a JPEG is damaged.
    """
    frames_T = pack.choose(num_frames)
    wanted, place_T = np.unique(frames_T, return_inverse=True)
    frames_THWC: np.ndarray | None = None
    for place, number in enumerate(wanted):
        alive()
        with _opened(pack.jpegs[number]) as picture:
            if frames_THWC is None:
                frames_THWC = np.empty((len(wanted), picture.height, picture.width, 3), dtype=np.uint8)
            _require_size(picture, frames_THWC.shape[1:3])
            frames_THWC[place] = picture if picture.mode == "RGB" else picture.convert("RGB")
    assert frames_THWC is not None
    repeated_THWC = frames_THWC if len(wanted) == num_frames else frames_THWC[place_T]
    return DecodedFrames(repeated_THWC, pack.times_seconds[frames_T])


def choose_of_pack(pack: FramePack, num_frames: int) -> EncodedFrames:
    """The frames that :func:`decode_pack` would decode.

    Raises:
        DecodeError: a JPEG is cut short, its header is damaged, or their sizes differ.
    """
    frames_T = pack.choose(num_frames)
    wanted, place_T = np.unique(frames_T, return_inverse=True)
    jpegs = tuple(pack.jpegs[i] for i in wanted)
    size_hw: tuple[int, int] | None = None
    for jpeg in jpegs:
        with _opened(jpeg) as picture:
            size_hw = size_hw or (picture.height, picture.width)
            _require_size(picture, size_hw)
    assert size_hw is not None
    return EncodedFrames(jpegs, JPEG, place_T, pack.times_seconds[frames_T], size_hw)


@contextlib.contextmanager
def _opened(jpeg: bytes) -> Iterator[Image.Image]:
    try:
        with Image.open(io.BytesIO(jpeg), formats=["JPEG"]) as picture:
            require_picture(picture.height, picture.width)
            if not jpeg.endswith(_END_OF_JPEG):
                raise DecodeError("truncated", f"JPEG: ends within its data, {len(jpeg)} bytes")
            yield picture
    except DecodeError:
        raise
    except Exception as error:  # of a damaged header Pillow says much
        raise DecodeError("corrupt", f"JPEG: {' '.join(str(error).split())[:200]}") from None


def _require_size(picture: Image.Image, size_hw: tuple[int, ...]) -> None:
    if (picture.height, picture.width) != tuple(size_hw):
        raise DecodeError("corrupt", f"JPEG: frames of several sizes, {(picture.height, picture.width)} and {size_hw}")
