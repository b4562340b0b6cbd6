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

from stoa.fields import printable

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
        self._total, self._name, self._unit, self._note = total, printable(name), unit, ""
        self._done = self._before = 0
        self._begun = self._said = monotonic()
        self._has_said = False
        self._bar: Any = None
        self._show = (_shown.get() if show is None else show) and _is_first() and sys.stderr is not None
        self._live = self._show and sys.stderr.isatty()

    def __enter__(self) -> Progress:
        return self

    def skip(self, count: int) -> None:
        """So many were done before: they count, but not for the rate."""
        self._before += count
        self._done += count

    def update(self, count: int = 1, *, note: str = "") -> None:
        """So many more are done; ``note`` is shown beside the count."""
        self._done, self._note = self._done + count, note
        if self._live:
            self._draw(count)
        elif self._show and monotonic() - self._said >= _SECONDS_BETWEEN_LINES:
            self._said, self._has_said = monotonic(), True
            print(self._line(), file=sys.stderr, flush=True)

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if self._bar is not None:
            self._bar.set_description_str(self._line(ended=kind is None), refresh=False)
            self._bar.close()
        elif self._has_said and kind is None:
            print(self._line(ended=True), file=sys.stderr, flush=True)

    def _line(self, *, ended: bool = False) -> str:
        seconds = monotonic() - self._begun
        parts = [f"{self._done:,} of {self._total:,} {self._unit}", *filter(None, [self._note])]
        if self._done > self._before:
            rate = (self._done - self._before) / max(seconds, 1e-9)
            parts.append(f"{rate:,.0f} a second" if rate >= 9.5 else f"{rate:.2g} a second")
            if not ended:
                parts.append(f"{_time((self._total - self._done) / rate)} left")
        return f"{self._name}: {', '.join([*parts, f'took {_time(seconds)}'] if ended else parts)}"

    def _draw(self, count: int) -> None:
        if self._bar is not None:
            self._bar.set_description_str(self._line(), refresh=False)
            self._bar.update(count)
        elif monotonic() - self._begun >= _SECONDS_BEFORE_BAR:
            self._bar = _bar(self._total, self._done, self._line())


def _bar(total: int, done: int, line: str) -> Any:
    from tqdm import tqdm

    class Bar(tqdm):
        monitor_interval = 0  # no thread: loader processes are forked later

    sized = min(os.get_terminal_size(sys.stderr.fileno())) > 0  # some pseudo-terminals have no size
    shape: dict[str, Any] = {"dynamic_ncols": True} if sized else {"ncols": 80, "nrows": 24}
    return Bar(
        total=total,
        initial=done,
        desc=line,
        bar_format="{percentage:3.0f}%|{bar:20}| {desc}",
        miniters=1,
        file=sys.stderr,
        **shape,
    )


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
    if minutes < 24 * 60:
        return f"{minutes // 60} h {minutes % 60:02d} min"
    hours = round(seconds / 3600)
    return f"{hours // 24} d {hours % 24:02d} h"
