"""How far a long command is: a bar on a terminal, elsewhere a plain line every few seconds, always on stderr."""

from __future__ import annotations

import multiprocessing
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from time import monotonic
from types import TracebackType
from typing import Any

_SECONDS_BETWEEN_LINES = 5.0
_SECONDS_BEFORE_BAR = 1.0
_shown = ContextVar("progress is shown", default=False)


@contextmanager
def shown() -> Iterator[None]:
    """Within this, as in a command, progress is shown; a library is quiet by default."""
    token = _shown.set(True)
    try:
        yield
    finally:
        _shown.reset(token)


class Progress:
    """How much of some work is done. To be entered; what ends within the first seconds shows nothing.

    It is shown on the first rank alone, and never by worker processes.

    Args:
        total: how many there are to do.
        name: of the work.
        unit: of ``total``, in the plural.
        show: whether to; None is as :func:`shown` has it.
    """

    def __init__(self, total: int, name: str, unit: str, *, show: bool | None = None) -> None:
        self.total, self.name, self.unit = total, name, unit
        self._done = self._known = 0
        self._note = ""
        self._begun = self._said = monotonic()
        self._bar: Any = None
        self._has_said = False
        self._show = (_shown.get() if show is None else show) and _is_first() and sys.stderr is not None
        self._live = self._show and sys.stderr.isatty()

    def __enter__(self) -> Progress:
        return self

    def skip(self, count: int) -> None:
        """So many were done before: they count, but not for the rate."""
        self._known += count
        self._done += count

    def update(self, count: int = 1, *, note: str | None = None) -> None:
        """So many more are done; ``note`` is shown beside the count from now on."""
        self._done += count
        self._note = self._note if note is None else note
        if self._live:
            self._draw()
        elif self._show and monotonic() - self._said >= _SECONDS_BETWEEN_LINES:
            self._said, self._has_said = monotonic(), True
            left = (self.total - self._done) / max(self._rate(), 1e-9)
            self._say(f"{self._done:,} of {self.total:,} {self.unit}", f"{_time(left)} left")

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if self._bar is not None:
            self._bar.close()
        elif self._has_said and kind is None:
            self._say(f"{self._done:,} of {self.total:,} {self.unit}", f"took {_time(monotonic() - self._begun)}")

    def _rate(self) -> float:
        return (self._done - self._known) / max(monotonic() - self._begun, 1e-9)

    def _say(self, count: str, end: str) -> None:
        rate = self._rate()
        parts = [count, self._note, f"{rate:,.0f} a second" if rate >= 9.5 else f"{rate:.2g} a second", end]
        print(f"{self.name}: {', '.join(filter(None, parts))}", file=sys.stderr, flush=True)

    def _draw(self) -> None:
        if self._bar is None:
            if monotonic() - self._begun < _SECONDS_BEFORE_BAR:
                return
            self._bar = _bar(self.total, self.name, self.unit)
            self._bar.start_t -= monotonic() - self._begun
        self._bar.initial = self._known
        self._bar.set_postfix_str(self._note, refresh=False)
        self._bar.update(self._done - self._bar.n)


def _bar(total: int, name: str, unit: str) -> Any:
    from tqdm import tqdm

    class Bar(tqdm):
        monitor_interval = 0  # no thread: loader processes are forked later

    return Bar(total=total, desc=name, unit=f" {unit}", smoothing=0, miniters=1, dynamic_ncols=True, file=sys.stderr)


def _is_first() -> bool:
    """Of the ranks of a launcher, and no worker process."""
    return os.environ.get("RANK", "0") == "0" and multiprocessing.parent_process() is None


def _time(seconds: float) -> str:
    """``45 s``, ``2 min``, ``3 h 07 min``, ``2 d 04 h``."""
    minutes = round(seconds / 60)
    if seconds < 59.5:
        return f"{round(seconds)} s"
    if minutes < 60:
        return f"{minutes} min"
    hours = round(seconds / 3600)
    if hours < 24:
        return f"{minutes // 60} h {minutes % 60:02d} min"
    return f"{hours // 24} d {hours % 24:02d} h"
