"""A folder of videos, searched by file stem."""

from __future__ import annotations

import os
import zlib
from array import array
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import numpy as np

from stoa.data.video_files import VIDEO_SUFFIXES
from stoa.text_files import nfc


def video_stem(name: str) -> str:
    """A file's name without its video suffixes: ``a.b.avi.mp4`` is ``a.b``."""
    while True:
        stem, _, suffix = name.rpartition(".")
        if not stem or suffix.lower() not in VIDEO_SUFFIXES:
            return name
        name = stem


class VideoFolder:
    """The videos below a folder, links followed, in some 20 bytes and the name's own for each: no Python object a file.

    Raises:
        ValueError: the folder is missing or cannot be read.
    """

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        self.folder = Path(folder)
        if not self.folder.is_dir():
            raise ValueError(f"video folder {self.folder} does not exist; pass the folder that holds the videos")
        self._parents: list[str] = []
        names, ends, parents, keys = bytearray(), array("Q", [0]), array("I"), array("I")
        for parent, files in _walk(self.folder):
            for name in files:
                names += os.fsencode(name)
                ends.append(len(names))
                parents.append(len(self._parents))
                keys.append(_key(video_stem(name)))
            self._parents.append(parent)
        self._names, self._ends, self._parent_of = names, ends, parents
        unordered = np.frombuffer(keys, np.uint32) if keys else np.zeros(0, np.uint32)
        self._order = np.argsort(unordered, kind="stable").astype(np.uint32)
        self._keys = unordered[self._order]

    def __len__(self) -> int:
        return len(self._keys)

    def find(self, name: str) -> str | None:
        """The path, relative to the folder, of the video of this name; None where there is none.

        Args:
            name: a path from the folder, which is taken if it is a file; or a stem, with or without its suffix. Folders
                before a stem must be those of the file. The suffix decides between files of one stem only: videos are
                often re-encoded.

        Raises:
            ValueError: several files fit.
        """
        name = name.removeprefix("./")
        folder, _, last = name.rpartition("/")
        stem = video_stem(last)
        if os.path.isfile(self.folder / name):  # the path itself, whatever its suffix, perhaps outside the folder
            return name
        name, folder, last, stem = map(nfc, (name, folder, last, stem))
        key = np.uint32(_key(stem))
        first, end = np.searchsorted(self._keys, key, "left"), np.searchsorted(self._keys, key, "right")
        # Two stems may share a key.
        files = [
            file for index in self._order[first:end] if nfc(video_stem((file := self._file(int(index)))[1])) == stem
        ]
        if folder:
            files = [file for file in files if f"/{nfc(file[0])}".endswith("/" + folder)]
        paths = sorted(f"{parent}/{file}" if parent else file for parent, file in files)
        if len(paths) > 1:
            same_suffix = [path for path in paths if nfc(path).rpartition("/")[2] == last]
            whole = [path for path in same_suffix if nfc(path) == name]
            if len(whole) == 1:
                return whole[0]
            if len(same_suffix) != 1:
                raise ValueError(
                    f"videos {paths[0]} and {paths[1]} in {self.folder} both fit the name {name!r}; "
                    f"keep one of them, or name its sub-folder or suffix"
                )
            paths = same_suffix
        return paths[0] if paths else None

    def _file(self, index: int) -> tuple[str, str]:
        name = os.fsdecode(bytes(self._names[self._ends[index] : self._ends[index + 1]]))
        return self._parents[self._parent_of[index]], name


def _key(stem: str) -> int:
    # The names of files that are not UTF-8 hold surrogates, and so may those of a JSON file.
    return zlib.crc32(nfc(stem).encode("utf-8", "surrogatepass"))


def _kind(entry: os.DirEntry[str]) -> Literal["folder", "file"] | None:
    """None for what is neither, such as a link to itself."""
    try:
        return "folder" if entry.is_dir() else "file" if entry.is_file() else None
    except OSError:
        return None


def _walk(root: Path) -> Iterator[tuple[str, list[str]]]:
    """(path relative to the root, names of videos) for every folder that holds some, each folder once."""
    waiting, visited = [""], set()
    while waiting:
        parent = waiting.pop()
        videos = []
        try:
            status = os.stat(root / parent)
            if (status.st_dev, status.st_ino) in visited:  # links may lead in a circle
                continue
            visited.add((status.st_dev, status.st_ino))
            with os.scandir(root / parent) as entries:
                for entry in entries:
                    kind = _kind(entry)
                    if kind == "folder":
                        waiting.append(f"{parent}/{entry.name}" if parent else entry.name)
                    elif kind == "file" and entry.name.rpartition(".")[2].lower() in VIDEO_SUFFIXES:
                        videos.append(entry.name)
        except OSError as error:
            raise ValueError(f"video folder {root / parent} cannot be read ({error.strerror})") from None
        if videos:
            yield parent, videos
