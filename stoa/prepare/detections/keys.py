"""Which video and time the key of a frame stands for."""

from __future__ import annotations

import math
import re
from typing import NamedTuple

DEFAULT_PATTERN = r"(?P<video>.+)_(?P<frame>\d+)$"


class FrameKey(NamedTuple):
    """A frame of a video. ``seconds`` counts from the start of the file."""

    video: str
    seconds: float


class KeyPattern:
    """A regular expression that is searched for in keys.

    Args:
        pattern: with the group ``video``, and ``frame`` (its number from 0, at ``fps``) or ``seconds``.
        fps: frame numbers that pass in a second.

    Raises:
        ValueError: it does not compile or lacks a group, or ``fps`` is missing or not above 0.
    """

    def __init__(self, pattern: str, fps: float | None) -> None:
        try:
            self._pattern = re.compile(pattern)
        except re.error as error:
            raise ValueError(f"pattern {pattern!r} is no regular expression: {error}") from None
        groups = self._pattern.groupindex
        if "video" not in groups or not {"frame", "seconds"} & set(groups):
            raise ValueError(
                f"pattern {pattern!r} lacks a group; it needs (?P<video>...) and (?P<frame>...) or seconds"
            )
        if fps is not None and not (math.isfinite(fps) and fps > 0):
            raise ValueError(f"fps is {fps}; pass a number above 0")
        self.pattern = pattern
        self.fps = fps
        self._by_seconds = "seconds" in groups

    def parse(self, key: str) -> FrameKey | None:
        """``None`` when the pattern does not match.

        Raises:
            ValueError: ``fps`` is missing, or what was matched is no number.
        """
        match = self._pattern.search(key)
        if match is None:
            return None
        try:
            if self._by_seconds:
                return FrameKey(match["video"], float(match["seconds"]))
            return FrameKey(match["video"], self.seconds(int(match["frame"])))
        except TypeError:
            return None  # the group is optional and took no part
        except ValueError as error:
            raise ValueError(f"key {key!r} read with pattern {self.pattern!r}: {error}") from None

    def seconds(self, frame: float) -> float:
        """The time of a frame number.

        Raises:
            ValueError: ``fps`` is missing.
        """
        if self.fps is None:
            raise ValueError(f"frame {frame} is given by its number; pass fps, the frames numbered in a second")
        return frame / self.fps
