"""How large a clip may be. A file says what it likes of itself, and a small one may ask for all of a machine."""

from __future__ import annotations

from stoa.data.decoding.base import DecodeError

MEMORY_BYTES = 4 << 30
"""That reading and decoding a clip may take."""
CONTENT_BYTES = 1 << 30
"""Of a clip that is read into memory as a whole."""
PICTURE_PX = 1 << 26
"""Of one picture, twice 8K."""
DAMAGED_SHARE = 0.02
"""Of a clip's frames that decoders may mark as damaged; such a clip is used, with a note."""
_FRAMES = 1 << 22  # 38 hours at 30 frames a second
# What no encoder of ours takes, and what blows up when its shorter side is resized.
_LONGEST_SIDE_PX = 16_384
_LONGEST_ASPECT = 32


def require_picture(height: int, width: int) -> None:
    """Of the size that a header gives; before anything is decoded.

    Raises:
        DecodeError: it is too large, or none.
    """
    longer, shorter = max(height, width), min(height, width)
    if shorter < 1 or longer > _LONGEST_SIDE_PX or longer > _LONGEST_ASPECT * shorter or height * width > PICTURE_PX:
        raise DecodeError(
            "size",
            f"pictures of {width}x{height}; no side may have more than {_LONGEST_SIDE_PX:,} pixels, or be "
            f"{_LONGEST_ASPECT} times the other, and the picture no more than {PICTURE_PX:,}",
        )


def require_frames(count: int, file_bytes: int) -> None:
    """Of packets that a file declares, or that have been read of it.

    Raises:
        DecodeError: they are more than the bytes it has, or too many to index.
    """
    if count > min(file_bytes, _FRAMES):
        raise DecodeError(
            "limit", f"{count:,} frames or more in {file_bytes:,} bytes; no more than {_FRAMES:,} are read, or bytes"
        )


def require_content(size: int) -> None:
    """Of bytes to be held in memory.

    Raises:
        DecodeError: they are too many.
    """
    if not 0 < size <= CONTENT_BYTES:
        raise DecodeError("limit", f"a clip of {size:,} bytes; one that is read whole may have {CONTENT_BYTES:,}")
