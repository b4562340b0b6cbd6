"""The videos in a folder."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

VIDEO_SUFFIXES = frozenset(
    ("3g2", "3gp", "asf", "avi", "flv", "m2ts", "m4v", "mkv", "mov", "mp4", "mpeg", "mpg", "mts", "ogv", "ts", "vob")
    + ("webm", "wmv")
)
"""In lower case; files may have them in any."""


def video_files(folder: Path) -> Iterator[tuple[str, str]]:
    """The videos below a folder, known by their suffixes, in order: the path of each from there, and its path. Links
    are followed.

    Raises:
        ValueError: a folder cannot be read.
    """

    def refuse(error: OSError) -> None:
        raise ValueError(f"folder {error.filename} cannot be read ({error.strerror})")

    visited = set()
    for parent, folders, names in os.walk(folder, followlinks=True, onerror=refuse):
        status = os.stat(parent)
        if (status.st_dev, status.st_ino) in visited:  # links may lead in a circle
            folders.clear()
            continue
        visited.add((status.st_dev, status.st_ino))
        folders.sort()
        for name in sorted(names):
            if name.rpartition(".")[2].lower() in VIDEO_SUFFIXES:
                path = os.path.join(parent, name)
                yield os.path.relpath(path, folder), path
