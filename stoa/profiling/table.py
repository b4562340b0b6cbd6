"""A profile in words: one column each of one or two."""

from __future__ import annotations

from collections.abc import Sequence

from stoa.profiling.profile import UNEXPLAINED, Profile


def lines(profiles: Sequence[Profile]) -> list[str]:
    """A table of times, then counts, memory and throughput; with two profiles a column of ratios, the second over the
    first."""
    rows = [
        ("ms a step", *(f"{1e3 * p.step_seconds:.1f}" for p in profiles), _ratio([p.step_seconds for p in profiles]))
    ]
    names = dict.fromkeys(name for p in profiles for name in p.parts if name != UNEXPLAINED)
    for name in (*names, UNEXPLAINED):
        values = [p.parts.get(name, 0.0) for p in profiles]
        rows.append((f"  {name}", *(_part(p, v) for p, v in zip(profiles, values, strict=True)), _ratio(values)))
    for name in dict.fromkeys(name for p in profiles for name in p.metrics):
        values = [p.metrics.get(name, 0.0) for p in profiles]
        rows.append((name, *(f"{v:.4g}" if v else "" for v in values), _ratio(values)))
    for name in dict.fromkeys(name for p in profiles for name in p.counts):
        counts = [float(p.counts.get(name, 0)) for p in profiles]
        rows.append((f"{name} a step", *(f"{v:,.0f}" for v in counts), _ratio(counts)))
    for name in dict.fromkeys(name for p in profiles for name in p.memory_gib):
        values = [p.memory_gib.get(name, 0.0) for p in profiles]
        rows.append((f"live {name}, GiB", *(f"{v:.2f}" for v in values), _ratio(values)))
    rows.append(("overhead of measuring", *(f"{100 * p.overhead:+.1f}%" for p in profiles), ""))
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    heads = [
        f"{p.device}, {p.ranks} process(es), {p.clips} clips a step, {p.precision}, {p.steps} steps" for p in profiles
    ]
    table = [
        "  ".join([row[0].ljust(widths[0]), *(cell.rjust(w) for cell, w in zip(row[1:], widths[1:], strict=True))])
        for row in rows
    ]
    return [*heads, *(line.rstrip() for line in table)]


def _part(profile: Profile, seconds: float) -> str:
    return f"{1e3 * seconds:.1f} {seconds / sum(profile.parts.values()):4.0%}"


def _ratio(values: Sequence[float]) -> str:
    return f"{values[1] / values[0]:.2f}x" if len(values) == 2 and all(values) else ""
