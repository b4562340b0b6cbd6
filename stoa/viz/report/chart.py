"""Curves as SVG that takes its colours from the page."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

from stoa.viz.report.markup import Html, join, number, tag
from stoa.viz.thinning import Point

_WIDTH, _HEIGHT = 340, 180
_LEFT, _RIGHT, _TOP, _BOTTOM = 46, 8, 8, 22
_INNER_WIDTH, _INNER_HEIGHT = _WIDTH - _LEFT - _RIGHT, _HEIGHT - _TOP - _BOTTOM
_MOST_OF_MEANS = 3.0  # a spike may take so much of the height, in ranges of the means, and is cut beyond
_LEAST = 1e-30


class Line(NamedTuple):
    """A curve of a chart; ``style`` is a class of the page's style sheet."""

    points: Sequence[Point]
    style: str


class Axis(NamedTuple):
    """From ``low`` to ``high``, with ticks."""

    low: float
    high: float
    ticks: list[float]

    def place(self, value: float) -> float:
        """0 at the low end, 1 at the high one."""
        return (value - self.low) / (self.high - self.low)


def chart(title: str, lines: Sequence[Line], *, from_zero: bool = False) -> Html:
    """Lines against steps; around each the least and greatest value of the steps that a point stands for.

    Args:
        title: for those who cannot see it.
        lines: at least one has a finite value.
        from_zero: the vertical axis begins there, where no value is less.
    """
    points = [p for line in lines for p in line.points if math.isfinite(p.mean)]
    across = axis(min(p.step for p in points), max(p.step for p in points), 5)
    up = _vertical(points, from_zero)
    grid, labels = [], []
    for tick in up.ticks:
        y = _TOP + _INNER_HEIGHT * (1 - up.place(tick))
        grid.append(tag("path", d=f"M{_LEFT} {y:.1f}H{_WIDTH - _RIGHT}"))
        labels.append(tag("text", short(tick), x=_LEFT - 6, y=f"{y + 3.5:.1f}", text_anchor="end"))
    for tick in across.ticks:
        x = _LEFT + _INNER_WIDTH * across.place(tick)
        labels.append(tag("text", short(tick), x=f"{x:.1f}", y=_HEIGHT - 7, text_anchor="middle"))
    inner = {"x": _LEFT, "y": _TOP, "width": _INNER_WIDTH, "height": _INNER_HEIGHT}  # what is beyond it is cut
    return tag(
        "svg",
        tag("title", title),
        tag("g", *grid, class_="grid"),
        *labels,
        tag("svg", *(_drawn(line, across, up) for line in lines), **inner),
        viewBox=f"0 0 {_WIDTH} {_HEIGHT}",
        role="img",
    )


def _vertical(points: Sequence[Point], from_zero: bool) -> Axis:
    low, high = min(p.mean for p in points), max(p.mean for p in points)
    beyond = _MOST_OF_MEANS * (high - low)
    low = max(min(p.low for p in points), low - beyond)
    high = min(max(p.high for p in points), high + beyond)
    return axis(min(low, 0.0) if from_zero else low, high, 5)


def axis(low: float, high: float, ticks: int) -> Axis:
    """One that shows ``low`` to ``high``, with about so many ticks at round numbers."""
    if high - low <= max(1e-9 * max(abs(low), abs(high)), _LEAST):  # one value
        room = 0.5 * abs(high) if abs(high) > _LEAST else 1.0
        low, high = low - room, high + room
    raw = (high - low) / ticks
    power = 10.0 ** math.floor(math.log10(raw))
    step = power * next(factor for factor in (1, 2, 5, 10) if factor * power >= raw * 0.999)
    room = 0.03 * (high - low)
    first, last = math.ceil(low / step), math.floor(high / step)
    return Axis(low - room, high + room, [step * n for n in range(first, last + 1)])


def _drawn(line: Line, across: Axis, up: Axis) -> Html:
    bands, paths = [], []
    for part in _unbroken(line.points):
        xs = [f"{_INNER_WIDTH * across.place(p.step):.1f}" for p in part]
        means, lows, highs = (
            [_height(up.place(v)) for v in values]
            for values in ([p.mean for p in part], [p.low for p in part], [p.high for p in part])
        )
        if len(part) == 1:
            paths.append(tag("circle", cx=xs[0], cy=means[0], r=2))
            continue
        paths.append(tag("polyline", points=_pairs(xs, means)))
        if lows != highs:
            there_and_back = _pairs(xs + xs[::-1], highs + lows[::-1])
            bands.append(tag("polygon", points=there_and_back))
    return tag("g", join(bands), join(paths), class_=line.style)


def _unbroken(points: Sequence[Point]) -> list[list[Point]]:
    """Parts between values that are not finite."""
    parts: list[list[Point]] = [[]]
    for point in points:
        if math.isfinite(point.mean):
            parts[-1].append(point)
        elif parts[-1]:
            parts.append([])
    return [part for part in parts if part]


def _height(place: float) -> str:
    return f"{_INNER_HEIGHT * (1 - max(-1.0, min(place, 2.0))):.1f}"


def _pairs(xs: Sequence[str], ys: Sequence[str]) -> str:
    return " ".join(f"{x},{y}" for x, y in zip(xs, ys, strict=True))


def short(value: float) -> str:
    """Of a tick: ``200k``, ``1.5M``."""
    for size, letter in ((1e9, "G"), (1e6, "M"), (1e4, "k")):
        if size <= abs(value) < 1e12:
            return f"{value / (1e3 if letter == 'k' else size):.4g}{letter}"
    return number(value) if abs(value) >= 1e-3 or value == 0 else f"{value:.2g}"
