"""Sections of charts, each with a line for every run that has the metric."""

from __future__ import annotations

import math
from collections.abc import Sequence

from stoa.viz.report.chart import Line, chart
from stoa.viz.report.markup import Html, join, number, said, tag
from stoa.viz.report.panels import Panel, Section
from stoa.viz.report.sources import Run
from stoa.viz.report.style import STYLES
from stoa.viz.thinning import Curve, Point


def charts(section: Section, runs: Sequence[Run]) -> Html:
    """Those that a run has values for, or a line on that there are none."""
    return drawn(section.panels, runs) or said(section.absent)


def drawn(panels: Sequence[Panel], runs: Sequence[Run]) -> Html:
    """Empty where no run has a value."""
    figures = [figure for panel in panels if (figure := _figure(panel, runs))]
    return tag("div", *figures, class_="charts") if figures else Html("")


def mark(at: int) -> Html:
    """The colour of a run."""
    return tag("span", "", class_=f"mark {STYLES[at]}")


def curve_of(run: Run, metric: str) -> Curve | None:
    """One with a finite value."""
    curve = None if run.curves is None else run.curves.by_name.get(metric)
    return None if curve is None or not curve.count else curve


def recent(curve: Curve) -> float:
    """Mean of the last finite values."""
    return math.fsum(curve.recent) / len(curve.recent)


def _figure(panel: Panel, runs: Sequence[Run]) -> Html | None:
    found = [curve_of(run, panel.metric) for run in runs]
    if not any(found):
        return None
    scale = 100.0 if panel.percent else 1.0
    lines = []
    for at, run in enumerate(runs):
        for metric, style in ((panel.metric, STYLES[at]), (panel.beside, f"beside-{STYLES[at]}")):
            curve = None if metric is None else curve_of(run, metric)
            if curve is not None:
                lines.append(Line([_scaled(point, scale) for point in curve.points()], style))
    caption = tag("figcaption", panel.title, " ", tag("span", panel.what))
    title = f"{panel.title} by step"
    values = [_values(panel, at, run, scale, marked=len(runs) > 1) for at, run in enumerate(runs)]
    return tag("figure", caption, chart(title, lines, from_zero=panel.percent), *values)


def _values(panel: Panel, at: int, run: Run, scale: float, *, marked: bool) -> Html:
    """The last values of a run in words."""
    curve = curve_of(run, panel.metric)
    before = mark(at) if marked else Html("")
    if curve is None:
        return tag("p", before, f"not in the log of {run.name}")
    assert curve.last is not None
    step, value = curve.last
    unit = "%" if panel.percent else ""
    last = f"{number(scale * value)}{unit}" if math.isfinite(value) else "not finite"
    parts: list[object] = [before, tag("b", last), f" at step {step:,}"]
    if curve.count > 1:
        parts.append(f", {number(scale * recent(curve))}{unit} over the last {len(curve.recent):,}")
    if curve.not_finite:
        parts.append(f"; {curve.not_finite:,} not finite, the first at step {curve.first_not_finite:,}")
    beside = None if panel.beside is None else curve_of(run, panel.beside)
    if beside is not None:
        parts.append(f"; chance {number(scale * recent(beside))}{unit}")
    return tag("p", join(parts))


def _scaled(point: Point, scale: float) -> Point:
    return Point(point.step, scale * point.mean, scale * point.low, scale * point.high)
