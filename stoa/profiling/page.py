"""Profiles as one HTML page that needs nothing else."""

from __future__ import annotations

import html
from collections.abc import Sequence

from stoa.profiling.profile import Profile
from stoa.profiling.table import lines

_WIDTH, _ROW, _LABEL = 720, 22, 150
_COLOURS = ("#3b6ea5", "#d08a2e")


def page(profiles: Sequence[Profile], title: str) -> str:
    """Bars of times, of memory and of operations, and the table."""
    times = [{name: 1e3 * value for name, value in p.parts.items()} for p in profiles]
    charts = [
        ("Milliseconds of a step", times),
        ("Live memory at its peak, GiB", [p.memory_gib for p in profiles]),
        ("TFLOP of a step, closed form", [{name: value / 1e12 for name, value in p.flops.items()} for p in profiles]),
    ]
    body = "".join(f"<h2>{name}</h2>{_bars(values)}" for name, values in charts)
    legend = "".join(
        f'<p><span style="color:{colour}">&#9632;</span> {html.escape(p.device)}, {p.precision}, {p.clips} clips</p>'
        for p, colour in zip(profiles, _COLOURS, strict=False)
    )
    text = html.escape("\n".join(lines(profiles)))
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{html.escape(title)}</title>'
        "<style>body{font:15px sans-serif;margin:2em auto;max-width:60em}svg text{font:13px sans-serif}</style></head>"
        f"<body><h1>{html.escape(title)}</h1>{legend}{body}<h2>Table</h2><pre>{text}</pre></body></html>\n"
    )


def _bars(columns: Sequence[dict[str, float]]) -> str:
    names = list(dict.fromkeys(name for column in columns for name in column))
    most = max((value for column in columns for value in column.values()), default=0.0) or 1.0
    bar = _ROW / len(columns)
    shapes = []
    for row, name in enumerate(names):
        top = row * (_ROW + 6)
        shapes.append(f'<text x="{_LABEL - 8}" y="{top + 16}" text-anchor="end">{html.escape(name)}</text>')
        for number, column in enumerate(columns):
            value, y = column.get(name, 0.0), top + number * bar
            length = (_WIDTH - _LABEL - 90) * max(value, 0.0) / most
            size = f'width="{length:.1f}" height="{bar - 1:.1f}"'
            shapes.append(
                f'<rect x="{_LABEL}" y="{y:.1f}" {size} fill="{_COLOURS[number]}"/>'
                f'<text x="{_LABEL + length + 6:.1f}" y="{y + bar / 2 + 4:.1f}">{value:.3g}</text>'
            )
    return f'<svg width="{_WIDTH}" height="{len(names) * (_ROW + 6)}" role="img">{"".join(shapes)}</svg>'
