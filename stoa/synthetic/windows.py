"""Reels of real video, and windows onto them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

_SPEEDS = (1.0, 2.0)
_FIFTH = 5


@dataclass(frozen=True, slots=True)
class Window:
    """Which part of which reel is seen, and how.

    Attributes:
        reel: its number.
        moment: of the reel that is seen at time 0, in [0, 1] of what there is to choose from.
        right, down: where in the reel's picture the part lies, in [0, 1] of what there is to choose from.
        mirrored: left and right exchanged.
        backward: whether the reel is played backwards from time 0 on.
        speed: of the playing.
    """

    reel: int
    moment: float
    right: float
    down: float
    mirrored: bool
    backward: bool
    speed: float


def sample_window(rng: np.random.Generator, reels: Sequence[int]) -> Window:
    return Window(
        reel=reels[int(rng.integers(len(reels)))],
        moment=float(rng.random()),
        right=float(rng.random()),
        down=float(rng.random()),
        mirrored=bool(rng.random() < 0.5),
        backward=bool(rng.random() < 0.5),
        speed=_SPEEDS[int(rng.integers(len(_SPEEDS)))],
    )


@dataclass(frozen=True, slots=True)
class Footage:
    """Reels.

    Attributes:
        reels: (T, H, W, 3) uint8 RGB each, T of its own.
        fps: frames per second of all of them.
    """

    reels: Sequence[np.ndarray]
    fps: int

    def numbers(self, *, of_training: bool) -> list[int]:
        """Reels that clips of training show, or the others: every fifth, of which training shows nothing. With fewer
        than five reels these are all of them."""
        numbers = range(len(self.reels))
        return [n for n in numbers if len(numbers) < _FIFTH or (n % _FIFTH == _FIFTH - 1) != of_training]

    def seen(self, window: Window, times: np.ndarray, seconds: float, side: int) -> np.ndarray:
        """Pictures (F, side, side, 3) uint8 at centred ``times`` (F,) of a clip of so many seconds.

        The reel is played from the middle of the clip outwards, to both ends alike: time -t shows what t shows, so that
        it does not tell which way the clip is played. Where the reel ends it goes back.
        """
        frames_THWC = self.reels[window.reel]
        last = len(frames_THWC) - 1
        steps = np.rint(np.abs(times) * seconds * window.speed * self.fps).astype(int)
        room = max(0, last - int(steps.max()))
        middle = round(window.moment * room)
        if window.backward:
            middle, steps = last - middle, -steps
        frames = _there_and_back(middle + steps, last)
        height, width = frames_THWC.shape[1:3]
        x, y = round(window.right * (width - side)), round(window.down * (height - side))
        pictures = frames_THWC[frames, y : y + side, x : x + side]
        return pictures[:, :, ::-1] if window.mirrored else pictures


def _there_and_back(indices: np.ndarray, last: int) -> np.ndarray:
    period = max(1, 2 * last)
    return np.minimum(indices % period, -indices % period)
