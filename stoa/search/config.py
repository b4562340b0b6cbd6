"""How videos are cut for an index."""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class WindowConfig:
    """How videos are cut for an index.

    Attributes:
        seconds: length of a window.
        step_seconds: from the start of one to that of the next; at most ``seconds``.
        skip_still: leave out windows in which nothing moves, but for the first of a video.
    """

    seconds: float = 10.0
    step_seconds: float = 5.0
    skip_still: bool = True

    def __post_init__(self) -> None:
        for name in ("seconds", "step_seconds"):
            value = getattr(self, name)
            if not (math.isfinite(value) and value > 0):
                raise ValueError(f"windows.{name} is {value}; expected a number above 0")
        if self.step_seconds > self.seconds:
            raise ValueError(
                f"windows.step_seconds is {self.step_seconds} and windows.seconds {self.seconds}: what lies "
                "between two windows would not be found; make the step at most the length"
            )
