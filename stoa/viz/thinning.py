"""Curves of a run of any length in little memory: steps are gathered in bins that grow as they come."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Collection
from pathlib import Path
from typing import NamedTuple

from stoa.training.metrics import metric_records

BINS = 300
RECENT = 100
_LARGEST = 1e30
"""Of a value that is drawn; larger ones are told as not finite, as their sums would be."""


class Point(NamedTuple):
    """Steps of one bin: their mean, and the mean, least and greatest of their values; NaN where none is finite."""

    step: float
    mean: float
    low: float
    high: float


class _Bin:
    __slots__ = ("count", "high", "low", "seen", "steps", "total")

    def __init__(self) -> None:
        self.seen = self.steps = self.count = 0
        self.total, self.low, self.high = 0.0, math.inf, -math.inf

    def add(self, step: int, value: float, finite: bool) -> None:
        self.seen += 1
        self.steps += step
        if finite:
            self.count += 1
            self.total += value
            self.low, self.high = min(self.low, value), max(self.high, value)

    def merge(self, other: _Bin) -> _Bin:
        self.seen += other.seen
        self.steps += other.steps
        self.count += other.count
        self.total += other.total
        self.low, self.high = min(self.low, other.low), max(self.high, other.high)
        return self

    def point(self) -> Point:
        if not self.count:
            return Point(self.steps / self.seen, math.nan, math.nan, math.nan)
        return Point(self.steps / self.seen, self.total / self.count, self.low, self.high)


class Curve:
    """Values of a metric by step.

    Args:
        bins: most points that are kept. A bin holds one step until there are more than that, and then ever more.
        smooth: values of a running mean that takes their place.

    Attributes:
        count, total: of the finite values.
        last: step and value.
        recent: the last finite values, up to 100.
        not_finite: how many were not, or were beyond 1e30.
        first_not_finite: step of the first of them.
    """

    def __init__(self, bins: int = BINS, smooth: int = 1) -> None:
        self.count, self.total = 0, 0.0
        self.last: tuple[int, float] | None = None
        self.recent = deque[float](maxlen=RECENT)
        self.not_finite = 0
        self.first_not_finite: int | None = None
        self._most, self._width, self._origin = bins, 1, 0
        self._bins: list[_Bin | None] = []
        self._window = deque[float](maxlen=smooth)

    def add(self, step: int, value: float) -> None:
        finite = abs(value) < _LARGEST  # which NaN is not
        value = float(value) if finite else math.nan
        self.last = step, value
        if finite:
            self.count += 1
            self.total += value
            self.recent.append(value)
        else:
            self.not_finite += 1
            if self.first_not_finite is None:
                self.first_not_finite = step
        self._window.append(value)
        if len(self._window) == self._window.maxlen:
            self._gather(step, sum(self._window) / len(self._window))

    def points(self) -> list[Point]:
        """In the order of their steps."""
        if not self._bins and self.last is not None:  # of fewer values than are smoothed over
            mean = sum(self._window) / len(self._window)
            return [Point(self.last[0], mean, mean, mean)]
        return [one.point() for one in self._bins if one is not None]

    def _gather(self, step: int, value: float) -> None:
        if not self._bins:
            self._origin = step
        at = max(step - self._origin, 0)
        while at // self._width >= self._most:
            pairs = zip(self._bins[::2], [*self._bins[1::2], None], strict=False)
            self._bins = [a.merge(b) if a and b else a or b for a, b in pairs]
            self._width *= 2
        number = at // self._width
        self._bins += [None] * (number + 1 - len(self._bins))
        found = self._bins[number]
        if found is None:
            found = self._bins[number] = _Bin()
        found.add(step, value, not math.isnan(value))


class Curves(NamedTuple):
    """Of a ``metrics.jsonl``.

    Attributes:
        by_name: those that were asked for and that it has.
        known: names of all the metrics that it has.
        records: how many.
        last_step: the greatest.
    """

    by_name: dict[str, Curve]
    known: set[str]
    records: int
    last_step: int


def read_curves(path: Path, names: Collection[str], *, bins: int = BINS, smooth: int = 1) -> Curves:
    """Read a ``metrics.jsonl`` once through; one of gigabytes takes no more memory than a short one.

    Raises:
        OSError: it cannot be read.
    """
    curves: dict[str, Curve] = {}
    known, records, last_step = set[str](), 0, 0
    for record in metric_records(path):
        records += 1
        step = record["step"]
        last_step = max(last_step, step)
        known.update(record)
        for name in record.keys() & names:
            if record[name] is not None:
                curves.setdefault(name, Curve(bins, smooth)).add(step, record[name])
    return Curves(curves, known - {"step", "generation"}, records, last_step)
