"""What a person sees while a run is going."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Mapping

from stoa.fields import printable
from stoa.objectives.config import LOSSES

CLIPPED_OFTEN = 0.5
"""Share of steps with clipped gradients from which on it is shown."""


class Console:
    """One live line on a terminal, plain lines elsewhere; silent on all ranks but the first."""

    def __init__(self, *, enabled: bool) -> None:
        self.enabled = enabled
        self._live = enabled and sys.stdout.isatty()
        self._width = 0

    def say(self, text: str) -> None:
        """A line that stays."""
        if self.enabled:
            self._clear()
            print(printable(text), flush=True)

    def progress(self, text: str) -> None:
        """The live line, or a plain one."""
        if not self.enabled:
            return
        if self._live:
            self._clear()
            text = text[: shutil.get_terminal_size().columns - 1]  # a wrapped line could not be taken back
            self._width = len(text)
            print(text, end="", flush=True)
        else:
            print(text, flush=True)

    def close(self) -> None:
        """Leave the live line standing."""
        if self._width:
            print(flush=True)
            self._width = 0

    def _clear(self) -> None:
        if self._width:
            print("\r" + " " * self._width + "\r", end="")
            self._width = 0


def progress_line(step: int, max_steps: int, values: Mapping[str, float]) -> str:
    """``step 20/400 | loss 9.1 (vtc 3.2 ...) | 55.1 samples/s | 1.2 TFLOP/s | data wait 2% | ETA 5m02s``, the MFU where
    the device is known, and what went wrong."""
    terms = " ".join(f"{name} {values[name]:.3f}" for name in LOSSES if name in values)
    line = (
        f"step {step}/{max_steps} | loss {values['loss']:.3f} ({terms}) | {values['samples_per_second']:.1f} samples/s"
        f" | {values['tflops']:.3g} TFLOP/s"
    )
    if "mfu(%)" in values:
        line += f" (MFU {values['mfu(%)']:.0f}%)"
    line += f" | data wait {values['data_wait_share']:.0%} | ETA {duration(values['eta_seconds'])}"
    if "ota_match_accuracy" in values:
        line += f" | match {values['ota_match_accuracy']:.0%} (chance {values['ota_match_chance']:.0%})"
    if values.get("clipped_share", 0) >= CLIPPED_OFTEN:
        line += f" | {values['clipped_share']:.0%} of steps clipped"
    for name in ("replaced_clips", "skipped_steps"):
        if values.get(name):
            line += f" | {values[name]:.0f} {name.replace('_', ' ')}"
    return line


def duration(seconds: float) -> str:
    """``45s``, ``5m02s``, ``3h07m``, ``2d04h``."""
    s = round(seconds)
    if s < 60:
        return f"{s}s"
    if s < 3600:
        return f"{s // 60}m{s % 60:02d}s"
    if s < 86400:
        return f"{s // 3600}h{s % 3600 // 60:02d}m"
    return f"{s // 86400}d{s % 86400 // 3600:02d}h"
