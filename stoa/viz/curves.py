"""Training curves as a picture."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from stoa.training.metrics import read_metrics


def draw_curves(run: Path, panels: Sequence[Sequence[str]], path: Path, *, smooth: int = 1) -> None:
    """Draw metrics of a run against its steps.

    Args:
        run: folder that holds ``metrics.jsonl``.
        panels: metric names, a list for each panel.
        path: picture to write.
        smooth: steps of a running mean.

    Raises:
        ValueError: the run has no metrics, or lacks one that is asked for (the message names those it has).
    """
    records = read_metrics(run / "metrics.jsonl")
    if not records:
        raise ValueError(f"{run / 'metrics.jsonl'} holds no metrics; pass the output_dir of a run")
    known = sorted({name for record in records for name in record} - {"step"})
    figure = Figure(figsize=(4.5 * len(panels), 3.2), dpi=120, layout="constrained")
    for axis, names in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels, strict=True):
        for name in names:
            points = np.array([(r["step"], r[name]) for r in records if name in r], dtype=float)
            if not len(points):
                raise ValueError(f"{run} has no metric {name!r}; it has {', '.join(known)}")
            window = min(smooth, len(points))
            values = np.convolve(points[:, 1], np.ones(window) / window, mode="valid")
            axis.plot(points[window - 1 :, 0], values, label=name, linewidth=1.2)
        axis.set_xlabel("step")
        axis.grid(alpha=0.3)
        axis.legend(fontsize=8)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path)
