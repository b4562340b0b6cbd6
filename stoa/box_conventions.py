"""How a file of detections writes its boxes, and what the boxes themselves say about that.

Shape legend: n boxes.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np

BoxFormat = Literal["xyxy", "xywh", "yxyx", "yxhw"]
Units = Literal["pixels", "normalised"]

_WORDS: dict[BoxFormat, str] = {
    "xyxy": "x1, y1, x2, y2",
    "xywh": "x, y, width, height",
    "yxyx": "y1, x1, y2, x2",
    "yxhw": "y, x, height, width",
}
_UNIT = 1.5  # shares of a frame are up to 1, and a little more where a box reaches out of it
_SLACK = 0.02  # of a side, and a pixel: detectors round
_FEW, _MANY, _MOST = 0.1, 0.5, 0.9


@dataclass(frozen=True, slots=True, kw_only=True)
class Conventions:
    """How boxes and scores are written.

    Attributes:
        box_format: ``xyxy`` is two corners, ``xywh`` a corner and a size, ``yxyx`` and ``yxhw`` the same with y first.
        units: ``pixels`` of the frame that the detector saw, or ``normalised`` to its width and height.
        max_score: of a detection that is certain: 1, or 100 where scores are percentages.
        asked: the box format is the user's own word, which boxes do not overrule.
    """

    box_format: BoxFormat = "xyxy"
    units: Units = "pixels"
    max_score: float = 1.0
    asked: bool = False

    def corners(self, boxes_n4: np.ndarray, sizes_n2: np.ndarray) -> np.ndarray:
        """x1, y1, x2, y2 in pixels (n, 4) float64 of boxes as the file has them, on frames of these sizes."""
        boxes = np.asarray(boxes_n4, dtype=np.float64).reshape(-1, 4)
        if self.box_format in ("yxyx", "yxhw"):
            boxes = boxes[:, [1, 0, 3, 2]]
        if self.box_format in ("xywh", "yxhw"):
            boxes = np.concatenate([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], axis=1)
        return boxes * np.tile(sizes_n2, 2) if self.units == "normalised" else boxes


class Doubt(NamedTuple):
    """What boxes say against the conventions that they are read with.

    Attributes:
        finding: in words, with an example.
        option, value: that would fit, where there is one.
    """

    finding: str
    option: str | None = None
    value: str | None = None


class Evidence:
    """Boxes of a file, collected to be asked whether they fit its conventions.

    Args:
        conventions: that they are read with.
    """

    def __init__(self, conventions: Conventions) -> None:
        self.conventions = conventions
        self._names: list[str] = []
        self._counts: list[int] = []
        self._boxes: list[np.ndarray] = []
        self._sizes: list[np.ndarray] = []
        self._scores: list[np.ndarray] = []

    def add(
        self, name: str, boxes_n4: np.ndarray, scores_n: np.ndarray, size_wh: tuple[float, float] | np.ndarray | None
    ) -> None:
        """Take in the boxes of a frame or clip, as the file has them; ``size_wh`` is of the frame, if it is known."""
        if not len(boxes_n4):
            return
        self._names.append(name)
        self._counts.append(len(boxes_n4))
        self._boxes.append(np.asarray(boxes_n4, dtype=np.float64))
        size = (np.nan, np.nan) if size_wh is None else size_wh
        self._sizes.append(np.tile(np.asarray(size, dtype=np.float64), (len(boxes_n4), 1)))
        self._scores.append(np.asarray(scores_n, dtype=np.float64))

    def doubt(self) -> Doubt | None:
        """The first thing that most boxes agree on and the conventions deny, if there is one."""
        if not self._boxes:
            return None
        boxes, sizes, scores = (np.concatenate(parts) for parts in (self._boxes, self._sizes, self._scores))
        names = np.repeat(np.array(self._names, dtype=object), self._counts)
        finite = np.isfinite(boxes).all(axis=1)
        if not finite.any():
            return None
        boxes, sizes, names = boxes[finite], sizes[finite], names[finite]

        def such_as(which: np.ndarray, values: np.ndarray = boxes) -> str:
            at = int(np.flatnonzero(which)[0])
            shown = np.round(values[at], 3).tolist()
            return f"{which.mean():.0%} of {len(which):,}, such as {shown} of {names[at]}"

        return (
            self._doubt_of_units(boxes, such_as)
            or self._doubt_of_format(boxes, sizes, such_as)
            or self._doubt_of_scores(scores)
        )

    def _doubt_of_units(self, boxes: np.ndarray, such_as: Callable[[np.ndarray], str]) -> Doubt | None:
        within = (np.abs(boxes) <= _UNIT).all(axis=1)
        if self.conventions.units == "pixels" and within.mean() >= _MOST:
            return Doubt(
                f"boxes lie between 0 and 1 ({such_as(within)}): shares of the frame, where pixels are expected",
                "units",
                "normalised",
            )
        if self.conventions.units == "normalised" and (~within).mean() > _FEW:
            return Doubt(
                f"boxes have coordinates above 1 ({such_as(~within)}): pixels, where shares of the frame are expected",
                "units",
                "pixels",
            )
        return None

    def _doubt_of_format(
        self, boxes: np.ndarray, sizes: np.ndarray, such_as: Callable[[np.ndarray], str]
    ) -> Doubt | None:
        own = self.conventions.box_format
        sound = {form: _sound(boxes, sizes, form, self.conventions.units) for form in _WORDS}
        wrong = ~sound[own]
        if self.conventions.asked or wrong.mean() <= _FEW:
            return None
        best = max((form for form in _WORDS if form != own), key=lambda form: sound[form].mean())
        if sound[best].mean() >= _MOST:
            return Doubt(
                f"boxes do not fit as {_WORDS[own]} ({such_as(wrong)}), and do as {_WORDS[best]}", "box_format", best
            )
        if wrong.mean() > _MANY:
            return Doubt(
                f"boxes end before they begin, or outside the frame, read as {_WORDS[own]} ({such_as(wrong)}): are "
                "they of frames of another size?",
                "frame_size",
                None,
            )
        return None

    def _doubt_of_scores(self, scores: np.ndarray) -> Doubt | None:
        scores = scores[np.isfinite(scores)]
        most = self.conventions.max_score
        percent = (scores > 1) & (scores <= 100)
        if most == 1 and len(scores) and percent.mean() > _MANY:
            return Doubt(f"scores go up to {scores[percent].max():g}: percentages", "max_score", "100")
        if most > 1 and len(scores) and scores.max() <= 1:
            return Doubt(f"no score is above 1, where up to {most:g} is expected", "max_score", "1")
        return None


def _sound(boxes: np.ndarray, sizes: np.ndarray, form: BoxFormat, units: Units) -> np.ndarray:
    """(n,) bool: which boxes end after they begin and within the frame, where its size is known."""
    known = np.ones_like(sizes) if units == "normalised" else sizes
    corners = Conventions(box_format=form).corners(boxes, known)
    limits = np.where(np.isfinite(known), known, np.inf)
    slack = np.where(np.isfinite(limits), _SLACK * limits + (units == "pixels"), 0.0)
    sound = (corners[:, :2] <= corners[:, 2:]) & (corners[:, 2:] <= limits + slack) & (corners[:, :2] >= -slack)
    return np.asarray(sound.all(axis=1))
