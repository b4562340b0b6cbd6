"""The videos of an index, each by its number: no request names a path."""

from __future__ import annotations

import errno
import io
import os
import stat
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from stoa.search.index import FileState
from stoa.search.query import Searcher
from stoa.search.windows import Window
from stoa.serve.refusing import Refused

_TYPES = {
    **{"3g2": "video/3gpp2", "3gp": "video/3gpp", "asf": "video/x-ms-asf", "avi": "video/x-msvideo"},
    **{"flv": "video/x-flv", "m2ts": "video/mp2t", "m4v": "video/mp4", "mkv": "video/x-matroska"},
    **{"mov": "video/quicktime", "mp4": "video/mp4", "mpeg": "video/mpeg", "mpg": "video/mpeg", "mts": "video/mp2t"},
    **{"ogv": "video/ogg", "ts": "video/mp2t", "vob": "video/mpeg", "webm": "video/webm", "wmv": "video/x-ms-wmv"},
}
_PLAYED = {"m4v", "mov", "mp4", "ogv", "webm"}


@dataclass(frozen=True, slots=True)
class Part:
    """A window of a video of the index."""

    file: FileState
    window: Window


class Library:
    """See the module.

    Args:
        searcher: whose files they are.
    """

    def __init__(self, searcher: Searcher) -> None:
        self._searcher = searcher
        self._folder = Path(os.path.realpath(searcher.index.sources.videos))

    def state(self, number: str) -> FileState:
        """Of the video that a request names.

        Raises:
            Refused: the index has no such number.
        """
        known = number.isascii() and number.isdecimal() and len(number) <= 18
        state = self._searcher.files.get(int(number)) if known else None
        if state is None:
            raise Refused(404, "No video has this number.")
        return state

    def part(self, number: str, start_seconds: float, end_seconds: float) -> Part:
        """A window that was indexed, and no other one.

        Raises:
            Refused: there is none.
        """
        state, window = self.state(number), Window(start_seconds, end_seconds)
        vectors = self._searcher.vectors  # maybe of a later reading than the state: then no window is there
        if not (vectors.parts_W2[vectors.files_W == state.number] == np.array(window)).all(axis=1).any():
            raise Refused(404, "The index has no such window of this video.")
        return Part(state, window)

    def open(self, state: FileState) -> io.FileIO:
        """A video, as it was when it was indexed, in the folder that was.

        Raises:
            Refused: it is gone, has changed, or is a link out of the folder.
        """
        path = os.path.realpath(self._folder / state.video)
        try:
            if not Path(path).is_relative_to(self._folder):
                raise OSError(errno.EXDEV, "it is a link out of the folder")
            file = io.FileIO(_opened_below(self._folder, os.path.relpath(path, self._folder)))
        except OSError:
            raise Refused(410, f"{state.video} is not there any more. Run stoa index again.") from None
        status = os.fstat(file.fileno())
        if (status.st_size, status.st_mtime_ns) != (state.size_bytes, state.mtime_ns):
            file.close()
            raise Refused(410, f"{state.video} has changed since it was indexed. Run stoa index again.")
        return file

    def require(self, state: FileState) -> Path:
        """The path of a video that :meth:`open` opens, for decoders. Raises as it does."""
        self.open(state).close()
        return self._folder / state.video


def media_type(state: FileState) -> str:
    """Of a video, by its suffix, and never anything that a browser runs."""
    return _TYPES.get(_suffix(state), "application/octet-stream")


def is_played(video: str) -> bool:
    """Whether browsers play files of this name, as a rule."""
    return video.rpartition(".")[2].lower() in _PLAYED


def _suffix(state: FileState) -> str:
    return state.video.rpartition(".")[2].lower()


def _opened_below(folder: Path, way: str) -> int:
    """A file, gone to step by step, so that nothing on the way becomes a link meanwhile.

    Raises:
        OSError: something is a link now, or no file.
    """
    *folders, name = Path(way).parts
    place = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        for step in folders:
            below = os.open(step, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=place)
            os.close(place)
            place = below
        descriptor = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK, dir_fd=place)
    finally:
        os.close(place)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError(errno.EINVAL, "it is not a file", name)
    return descriptor
