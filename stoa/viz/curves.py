"""Training curves as a picture."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from pathlib import Path

from matplotlib.figure import Figure

from stoa.files import replacing
from stoa.training.metrics import METRICS_FILE
from stoa.viz.thinning import read_curves

_BINS = 2000  # more than a panel has pixels


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
    wanted = set(itertools.chain(*panels))
    curves = {run: read_curves(run / METRICS_FILE, wanted, bins=_BINS, smooth=smooth) for run in runs}
    for run, found in curves.items():
        if not found.records:
            raise ValueError(f"{run / METRICS_FILE} holds no metrics; pass the output_dir of a run")
    known = set().union(*(found.known for found in curves.values()))
    for name in itertools.chain(*panels):
        if name not in known:
            raise ValueError(f"{', '.join(map(str, runs))}: no metric {name!r}; there are {', '.join(sorted(known))}")
    figure = Figure(figsize=(4.5 * len(panels), 3.2), dpi=120, layout="constrained")
    for axis, names in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels, strict=True):
        for run, name in itertools.product(runs, names):
            curve = curves[run].by_name.get(name)
            if curve is None:  # of a part of the model that this run does not have
                continue
            points = curve.points()
            label = name if len(runs) == 1 else f"{run.name}: {name}"
            axis.plot([p.step for p in points], [p.mean for p in points], label=label, linewidth=1.2)
        axis.set_xlabel("step")
        axis.grid(alpha=0.3)
        axis.legend(fontsize=8)
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as temporary:
        figure.savefig(temporary, format=path.suffix.removeprefix(".") or "png")
