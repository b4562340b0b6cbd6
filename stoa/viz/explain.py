"""A picture of one clip: frames with the trajectories as coloured tracks, and the word each token is matched to."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from stoa.files import replacing
from stoa.tasks.explain import Explanation, MatchedWord

_COLUMNS = 6
_FRAME_INCHES = 2.2


def draw_explanation(explanation: Explanation, path: Path) -> None:
    """Write the picture as PNG (or what the suffix of ``path`` says)."""
    num_frames = len(explanation.frames_TSS3)
    columns = min(_COLUMNS, num_frames)
    rows = math.ceil(num_frames / columns)
    lines = [f"{track.name} → {_word(track.matched)}" for track in explanation.tracks]
    lines += [f"action token {m} → {_word(matched)}" for m, matched in enumerate(explanation.actions, start=1)]
    text_inches = 0.22 * (len(lines) + 2)
    height = rows * _FRAME_INCHES + text_inches
    figure = Figure(figsize=(columns * _FRAME_INCHES, height), dpi=120)
    axes = figure.subplots(rows, columns, squeeze=False)
    figure.subplots_adjust(0.01, text_inches / height, 0.99, 1 - 0.3 / height, wspace=0.03, hspace=0.03)
    for axis in axes.flat:
        axis.axis("off")
    colours = [matplotlib.colormaps["tab10"](i % 10) for i in range(len(explanation.tracks))]
    for t, (axis, frame) in enumerate(zip(axes.flat, explanation.frames_TSS3, strict=False)):
        axis.imshow(frame, extent=(0, 1, 1, 0))
        for track, colour in zip(explanation.tracks, colours, strict=True):
            _draw_track(axis, track.boxes[: t + 1], colour)
    title = f"{explanation.clip}: {explanation.caption}"
    style: dict[str, Any] = {"fontsize": 9, "va": "top", "parse_math": False}  # a caption may hold dollar signs
    figure.suptitle(title, y=1 - 0.1 / height, wrap=True, **style)
    for i, line in enumerate(lines):
        text = figure.text(0.02, (text_inches - 0.22 * (i + 1)) / height, line, **style)
        if i < len(colours):
            text.set_color(colours[i])
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as temporary:
        figure.savefig(temporary, format=path.suffix.removeprefix(".") or "png")


def _draw_track(axis: Axes, boxes: list[np.ndarray], colour: tuple[float, ...]) -> None:
    """The boxes of the last frame, and the way their middle came."""
    for x1, y1, x2, y2 in boxes[-1]:
        axis.add_patch(Rectangle((x1, y1), x2 - x1, y2 - y1, fill=False, edgecolor=colour, linewidth=1.5))
    middles = [found.reshape(-1, 2, 2).mean(axis=(0, 1)) for found in boxes if len(found)]
    if middles:
        axis.plot(*np.array(middles).T, color=colour, linewidth=1, marker=".", markersize=3)


def _word(matched: MatchedWord | None) -> str:
    if matched is None:
        return "unmatched"
    return f"{'no word' if matched.word is None else matched.word} ({matched.probability:.0%})"
