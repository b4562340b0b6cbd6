"""Which video and time the key of a frame stands for."""

from __future__ import annotations

import math
import re
from typing import NamedTuple

from stoa.text_files import nfc

DEFAULT_PATTERN = r"(?P<video>.+)_(?P<frame>\d+)$"


_MOST = 0.9


class FrameKey(NamedTuple):
    """A frame of a video. ``seconds`` counts from the start of the file."""

    video: str
    seconds: float


class KeyPattern:
    """A regular expression that is searched for in keys.

    Args:
        pattern: with the group ``video``, and ``frame`` (its number, at ``fps``) or ``seconds``.
        fps: frame numbers that pass in a second.
        first_frame: number of the first frame of a video, 0 or 1; None takes 0 and has
            :meth:`require_first_frame` look whether that can be.

    Raises:
        ValueError: it does not compile or lacks a group, or ``fps`` is missing or not above 0.
    """

    def __init__(self, pattern: str, fps: float | None, first_frame: int | None = None) -> None:
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
        if first_frame not in (None, 0, 1):
            raise ValueError(f"first_frame is {first_frame}; pass 0 or 1")
        self.first_frame = first_frame
        self._looking = True
        self._first_of: dict[int, float] = {}  # number of each video's first frame, while all are above 0
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
                return FrameKey(nfc(match["video"]), float(match["seconds"]))
            return self.of_number(nfc(match["video"]), int(match["frame"]))
        except TypeError:
            return None  # the group is optional and took no part
        except ValueError as error:
            raise ValueError(f"key {key!r} read with pattern {self.pattern!r}: {error}") from None

    def of_number(self, video: str, number: float) -> FrameKey:
        """The frame of this number.

        Raises:
            ValueError: ``fps`` is missing.
        """
        if self.fps is None:
            raise ValueError(f"frame {number:g} is given by its number; pass fps, the frames numbered in a second")
        if self._looking and number < 1:
            self._looking, self._first_of = False, {}
        elif self._looking:
            place = hash(video)
            self._first_of[place] = min(number, self._first_of.get(place, number))
        return FrameKey(video, (number - (self.first_frame or 0)) / self.fps)

    def require_first_frame(self, where: str) -> None:
        """To be called when all keys have come by.

        Raises:
            ValueError: nearly all videos begin with frame 1 and it was not said which number a first frame has, or it
                was said to be 1 and there is a 0.
        """
        first, begun = list(self._first_of.values()), self._looking
        self._looking, self._first_of = False, {}
        if self.first_frame is None and first.count(1) > _MOST * len(first):
            raise ValueError(
                f"{where} begin with 1; pass --detections.first_frame 1 where that is the number of a video's first "
                "frame, or 0 where frame 0 is left out"
            )
        if self.first_frame == 1 and not begun:
            raise ValueError(f"{where} begin with 0, and --detections.first_frame is 1; leave it out")
