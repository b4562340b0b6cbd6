"""From the stored picture to the displayed one: the display matrix of container, stream or frame.

Shape legend: H height, W width, C channels.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import av
import numpy as np
from av.sidedata.sidedata import SideDataContainer, Type

# FFmpeg's name, and of its nine numbers the four that turn and mirror.
_MATRIX, _TURN = "DISPLAYMATRIX", [0, 1, 3, 4]


def _unknown_kind(cls: type[Type], value: object) -> Type:
    member: Any = object.__new__(cls)
    member._name_, member._value_ = f"UNKNOWN_{value}", value
    return member


# PyAV gives none of a frame's side data where there is a kind that it has no name for, as EXIF and stereo views.
Type._missing_ = classmethod(_unknown_kind)  # type: ignore[assignment]


class Orientation(NamedTuple):
    """Rows and columns change places first, then rows or columns are taken in reverse."""

    transposed: bool = False
    rows_reversed: bool = False
    columns_reversed: bool = False

    def apply(self, picture_HWC: np.ndarray) -> np.ndarray:
        """The displayed picture, a view of the stored one."""
        shown = picture_HWC.swapaxes(0, 1) if self.transposed else picture_HWC
        return shown[:: -1 if self.rows_reversed else 1, :: -1 if self.columns_reversed else 1]

    def shape(self, height: int, width: int) -> tuple[int, int]:
        """Height and width of the displayed picture."""
        return (width, height) if self.transposed else (height, width)


UPRIGHT = Orientation()


def orientation(frame: av.VideoFrame) -> tuple[Orientation, bool]:
    """Of a decoded frame, by its display matrix: that of quarter turns and mirrors which is nearest to it.

    Returns:
        it, and whether that is the matrix itself (but for its scale), to a degree.
    """
    # Not frame.side_data: the two would hold each other, and the picture, until Python next looks for cycles.
    data: Mapping[Any, Any] = SideDataContainer(frame)  # type: ignore[call-arg]  # its stub has no constructor
    if not len(data) or _MATRIX not in data:
        return UPRIGHT, True
    # A point x to the right and y down is shown at (a x + c y, b x + d y).
    a, b, c, d = np.frombuffer(bytes(data[_MATRIX]), dtype=np.int32)[_TURN].astype(np.float64)
    size = np.hypot(np.hypot(a, b), np.hypot(c, d))
    if size == 0:
        return UPRIGHT, False
    straight, across = abs(a) + abs(d), abs(b) + abs(c)
    if across > straight:
        return Orientation(True, bool(b < 0), bool(c < 0)), bool(abs(across / size - np.sqrt(2)) < 2e-4)
    return Orientation(False, bool(d < 0), bool(a < 0)), bool(abs(straight / size - np.sqrt(2)) < 2e-4)
