"""Training curves as a picture."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from stoa.files import replacing
from stoa.training.metrics import METRICS_FILE, read_metrics


def draw_curves(runs: Sequence[Path], panels: Sequence[Sequence[str]], path: Path, *, smooth: int = 1) -> None:
    """Draw metrics of runs against their steps.

    Args:
        runs: folders that hold ``metrics.jsonl``.
        panels: metric names, a list for each panel; a run has a line for each.
        path: picture to write.
        smooth: steps of a running mean.

    Raises:
        ValueError: a run has no metrics, or no run has one that is asked for (the message names those there are).
    """
    records = {run: read_metrics(run / METRICS_FILE) for run in runs}
    for run, found in records.items():
        if not found:
            raise ValueError(f"{run / METRICS_FILE} holds no metrics; pass the output_dir of a run")
    known = {name for found in records.values() for record in found for name in record} - {"step"}
    for name in itertools.chain(*panels):
        if name not in known:
            raise ValueError(f"{', '.join(map(str, runs))}: no metric {name!r}; there are {', '.join(sorted(known))}")
    figure = Figure(figsize=(4.5 * len(panels), 3.2), dpi=120, layout="constrained")
    for axis, names in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels, strict=True):
        for run, name in itertools.product(runs, names):
            points = np.array([(r["step"], r[name]) for r in records[run] if name in r], dtype=float)
            if not len(points):  # of a part of the model that this run does not have
                continue
            window = min(smooth, len(points))
            values = np.convolve(points[:, 1], np.ones(window) / window, mode="valid")
            label = name if len(runs) == 1 else f"{run.name}: {name}"
            axis.plot(points[window - 1 :, 0], values, label=label, linewidth=1.2)
        axis.set_xlabel("step")
        axis.grid(alpha=0.3)
        axis.legend(fontsize=8)
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as temporary:
        figure.savefig(temporary, format=path.suffix.removeprefix(".") or "png")
