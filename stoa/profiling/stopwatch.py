"""Time of the parts of a step, each without that of the parts inside it."""

from __future__ import annotations

import time
from collections import defaultdict

import torch

STEP = ""
"""What is in no part."""


class Stopwatch:
    """A :class:`stoa.parts.Watch` of one step. On a GPU a part's time is that of what it has issued, as far as the
    device waits for nothing else; nothing waits for the device until :meth:`seconds`.

    Args:
        device: that the step runs on.
    """

    def __init__(self, device: torch.device) -> None:
        self._events = device.type == "cuda"
        self._stack = [STEP]
        self._marks: list[tuple[str, float | torch.cuda.Event]] = []
        self._mark()

    def enter(self, part: str) -> None:
        self._mark()
        self._stack.append(part)

    def leave(self) -> None:
        self._mark()
        self._stack.pop()

    def _mark(self) -> None:
        if self._events:
            event = torch.cuda.Event(enable_timing=True)
            event.record()
            self._marks.append((self._stack[-1], event))
        else:
            self._marks.append((self._stack[-1], time.perf_counter()))

    def seconds(self) -> dict[str, float]:
        """Of each part until here; what is in none is :data:`STEP`'s. Waits for the device."""
        self._mark()
        if self._events:
            torch.cuda.synchronize()
        parts: dict[str, float] = defaultdict(float)
        for (_, begun), (part, ended) in zip(self._marks, self._marks[1:], strict=False):
            if isinstance(begun, float):
                parts[part] += ended - begun  # type: ignore[operator]
            else:
                parts[part] += begun.elapsed_time(ended) / 1e3  # type: ignore[arg-type]
        return dict(parts)
