"""A file, or the part of it that a player asks for."""

from __future__ import annotations

import io
import os
import re

import anyio
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import Headers
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from stoa.serve.refusing import Refused

_CHUNK = 1 << 18
_RANGE = re.compile(r"bytes=(\d{0,18})-(\d{0,18})")


def part_of(asked: str | None, size: int) -> tuple[int, int] | None:
    """First byte and end of the part that a Range header asks for; None is all.

    Raises:
        Refused: it asks for several parts, or for what the file does not have.
    """
    if asked is None or not asked.startswith("bytes="):  # another unit is to be ignored
        return None
    found = _RANGE.fullmatch(asked.replace(" ", ""))
    if found is not None:
        first, last = found.groups()
        if first and int(first) < size and (not last or int(last) >= int(first)):
            return int(first), min(int(last) + 1, size) if last else size
        if not first and last and int(last) and size:
            return max(0, size - int(last)), size
    raise Refused(416, "The file has no such part.", {"Content-Range": f"bytes */{size}"})


class PartResponse(Response):
    """Bytes of an open file, which is closed afterwards, also if the browser leaves in between.

    Args:
        file: to read.
        media_type: of its content.
        headers: of the request.

    Raises:
        Refused: see :func:`part_of`; the file is closed.
    """

    def __init__(self, file: io.FileIO, media_type: str, headers: Headers) -> None:
        status = os.fstat(file.fileno())
        tag = f'"{status.st_mtime_ns:x}-{status.st_size:x}"'
        asked = headers.get("range") if headers.get("if-range", tag) == tag else None
        try:
            part = part_of(asked, status.st_size)
        except Refused:
            file.close()
            raise
        self._file = file
        self._first, self._end = part or (0, status.st_size)
        super().__init__(status_code=206 if part else 200, media_type=media_type)
        self.headers["Accept-Ranges"] = "bytes"
        self.headers["Cache-Control"] = "private, no-cache"
        self.headers["Content-Disposition"] = "inline"
        self.headers["Content-Length"] = str(self._end - self._first)
        self.headers["ETag"] = tag
        if part:
            self.headers["Content-Range"] = f"bytes {self._first}-{self._end - 1}/{status.st_size}"

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        with self._file:
            async with anyio.create_task_group() as group:
                group.start_soon(_until_gone, receive, group.cancel_scope)
                await self._send(scope["method"], send)
                group.cancel_scope.cancel()

    async def _send(self, method: str, send: Send) -> None:
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        place = self._end if method == "HEAD" else self._first
        while place < self._end:
            chunk = await run_in_threadpool(os.pread, self._file.fileno(), min(_CHUNK, self._end - place), place)
            if not chunk:  # it has become shorter; the browser is told by a connection that ends early
                return
            place += len(chunk)
            await send({"type": "http.response.body", "body": chunk, "more_body": True})
        await send({"type": "http.response.body", "body": b""})


async def _until_gone(receive: Receive, scope: anyio.CancelScope) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
    scope.cancel()
