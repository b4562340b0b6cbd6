"""What a browser sends, no more of it than is allowed, and no longer than that."""

from __future__ import annotations

import asyncio
import os
import tempfile
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

from starlette.requests import ClientDisconnect, Request

from stoa.files import in_units
from stoa.serve.refusing import Refused

# What pictures and clips begin with: (offset, bytes). What is in them is for the decoder to find out.
_KINDS = (
    *((0, b"\x89PNG\r\n\x1a\n"), (0, b"\xff\xd8\xff"), (0, b"GIF8"), (0, b"BM"), (8, b"WEBP")),
    *((4, b"ftyp"), (0, b"\x1aE\xdf\xa3"), (8, b"AVI "), (0, b"OggS")),
)


async def receive(request: Request, most: int, seconds: float, take: Callable[[bytes], object]) -> None:
    """Give the body of a request to ``take``, piece by piece.

    Raises:
        Refused: it has more bytes, or is not here in time; or whoever sends it has left.
    """
    too_large = Refused(413, f"This is larger than {in_units(most)}, more than is taken.", {"Connection": "close"})
    announced = request.headers.get("content-length", "0")
    if not (announced.isascii() and announced.isdecimal()) or len(announced) > 18 or int(announced) > most:
        raise too_large
    size = 0
    try:
        async with asyncio.timeout(seconds):
            async for chunk in request.stream():
                size += len(chunk)
                if size > most:
                    raise too_large
                take(chunk)
    except TimeoutError:
        raise Refused(408, f"This was not here within {seconds:g} s.", {"Connection": "close"}) from None
    except ClientDisconnect:
        raise Refused(499, "Whoever sent this has left.") from None


@asynccontextmanager
async def uploaded(request: Request, folder: Path, most: int, seconds: float) -> AsyncIterator[Path]:
    """The body as a file that nobody else reads, deleted at the end of the block.

    Args:
        folder: that only this user can enter.

    Raises:
        Refused: as :func:`receive` does; or it is empty, or neither a picture nor a video.
    """
    descriptor, name = tempfile.mkstemp(dir=folder)
    try:
        with open(descriptor, "wb") as file:
            await receive(request, most, seconds, file.write)
        _require_picture(Path(name))
        yield Path(name)
    finally:
        os.unlink(name)


def _require_picture(path: Path) -> None:
    with open(path, "rb") as file:
        head = file.read(16)
    if not any(head[offset:].startswith(magic) for offset, magic in _KINDS):
        raise Refused(415, "This is neither a picture (PNG, JPEG, WebP, GIF, BMP) nor a video (MP4, WebM, MKV, AVI).")
