"""Windows as MP4, for browsers that do not play the file that they are of."""

from __future__ import annotations

import io
from collections import OrderedDict
from pathlib import Path

from stoa.search.cutting import cut
from stoa.serve.library import Library, Part
from stoa.serve.limits import Limits


class Parts:
    """The last ones that were asked for, in a folder that is deleted at the end. For one thread.

    Args:
        library: of the videos.
        folder: that only this user can enter.
        limits: of what is kept.
    """

    def __init__(self, library: Library, folder: Path, limits: Limits) -> None:
        self._library, self._folder, self._limits = library, folder, limits
        self._kept: OrderedDict[Part, int] = OrderedDict()
        self._made = 0
        self._paths: dict[Part, Path] = {}

    def opened(self, part: Part) -> io.FileIO:
        """A window, cut now or kept from before.

        Raises:
            Refused: see :meth:`Library.open`.
            ValueError: it cannot be read.
            StorageError: there is no room.
        """
        video = self._library.require(part.file)
        if part not in self._kept:
            self._made += 1
            path = self._folder / f"{self._made}.mp4"
            cut(video, part.window.start_seconds, part.window.end_seconds, path)
            self._kept[part], self._paths[part] = path.stat().st_size, path
        self._kept.move_to_end(part)
        file = io.FileIO(self._paths[part])
        # One that is being sent stays readable; that is why the newest may go too.
        while len(self._kept) > self._limits.parts or sum(self._kept.values()) > self._limits.parts_bytes:
            oldest, _ = self._kept.popitem(last=False)
            self._paths.pop(oldest).unlink()
        return file
