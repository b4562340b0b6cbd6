"""Windows of a video, the parts that are found."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch

from stoa.search.config import WindowConfig

STILL_LEVELS = 1.0
"""Frames of a window that differ from its first by less, of 255 on average, show nothing that moves."""


class Window(NamedTuple):
    """A part of a video, from the time of its first frame on."""

    start_seconds: float
    end_seconds: float


def windows_of(duration_seconds: float, config: WindowConfig) -> list[Window]:
    """Windows of a video, in order; the last one ends with it and is as long as the others, if the video is."""
    last = duration_seconds - config.seconds
    # A window that starts a hair before the last one would only repeat it.
    steps = math.ceil(last / config.step_seconds - 1e-3)
    if steps < 1:
        return [Window(0.0, duration_seconds)]
    starts = [*(number * config.step_seconds for number in range(steps)), last]
    return [Window(start, min(start + config.seconds, duration_seconds)) for start in starts]


def still(frames_BTCHW: torch.Tensor) -> torch.Tensor:
    """(B,) bool, whether nothing moves in a clip: uint8 frames that all look as the first one does."""
    frames = frames_BTCHW.float()
    return (frames - frames[:, :1]).abs().mean(dim=(2, 3, 4)).amax(dim=1) < STILL_LEVELS
