"""Object detections of one clip, as stored beside its video in a ``.npz`` file."""

from __future__ import annotations

import errno
import os
import zipfile
from dataclasses import dataclass
from typing import Any, BinaryIO

import numpy as np

from stoa.files import OF_STORAGE, in_units, open_regular

_FIELDS = ("frame_times_seconds", "frame_index", "boxes", "labels", "scores", "size_wh", "true_labels")
_OPTIONAL = {"true_labels"}
_WHOLE = {"frame_index", "labels", "true_labels", "size_wh"}
_MOST_BYTES = 1 << 28  # unpacked: four million boxes
# Boxes of frames that are not tiny, of which no coordinate is above this, are in shares of the frame.
_UNIT, _LEAST_SIDE = 1.5, 16


@dataclass(frozen=True, slots=True)
class Detections:
    """Boxes found on some frames of a clip.

    Attributes:
        frame_times_seconds: (F,) float64, presentation time of each frame the detector saw, ascending.
        frame_index: (n,) int64, for each box the frame (index into ``frame_times_seconds``) it was found on.
        boxes: (n, 4) float32, x1, y1, x2, y2 in pixels of the displayed frame.
        labels: (n,) int64, class index in the label vocabulary.
        scores: (n,) float32, confidence.
        size_wh: (2,) int64, width and height of the frame the boxes refer to.
        true_labels: (n,) int64 or None, class of the object that each box really shows, -1 for none; for data that
            know it. Never seen by a model.
    """

    frame_times_seconds: np.ndarray
    frame_index: np.ndarray
    boxes: np.ndarray
    labels: np.ndarray
    scores: np.ndarray
    size_wh: np.ndarray
    true_labels: np.ndarray | None = None

    def __post_init__(self) -> None:
        if self.frame_index.ndim != 1 or self.frame_times_seconds.ndim != 1:
            raise ValueError(
                f"frame_index {self.frame_index.shape} and frame_times_seconds {self.frame_times_seconds.shape} are no "
                "lists; expected (n,) and (F,)"
            )
        n = len(self.frame_index)
        if self.boxes.shape != (n, 4) or self.labels.shape != (n,) or self.scores.shape != (n,):
            raise ValueError(
                f"boxes {self.boxes.shape}, labels {self.labels.shape}, scores {self.scores.shape} and frame_index "
                f"{self.frame_index.shape} disagree; expected (n, 4), (n,), (n,), (n,)"
            )
        if self.true_labels is not None and self.true_labels.shape != (n,):
            raise ValueError(f"true_labels is {self.true_labels.shape}; expected ({n},), one for each box")
        if n and not (self.frame_index.min() >= 0 and self.frame_index.max() < len(self.frame_times_seconds)):
            raise ValueError(
                f"frame_index spans {self.frame_index.min()}..{self.frame_index.max()} "
                f"but there are {len(self.frame_times_seconds)} frames"
            )
        if n and self.labels.min() < 0:
            raise ValueError(f"labels hold {self.labels.min()}; a label is an index of the vocabulary, 0 or more")
        if not np.isfinite(self.frame_times_seconds).all():
            raise ValueError("frame_times_seconds hold what is no finite number")
        if n and not np.isfinite(self.scores).all():
            raise ValueError(
                f"scores hold {self.scores[~np.isfinite(self.scores)][0]}; a confidence is a finite number"
            )
        with_extent = (self.boxes[:, 2:] > self.boxes[:, :2]).all(axis=1)
        if (
            with_extent.any()
            and (np.abs(self.boxes) <= _UNIT).all()
            and self.size_wh.min(initial=_LEAST_SIDE) >= _LEAST_SIDE
        ):
            raise ValueError(
                f"boxes lie between 0 and 1, such as {self.boxes[0].tolist()}: shares of the frame; give corners in "
                f"pixels, so multiply them by size_wh, {self.size_wh.tolist()}"
            )
        if self.size_wh.shape != (2,) or not (self.size_wh > 0).all():
            raise ValueError(f"size_wh is {self.size_wh}; expected a positive width and height")

    def save(self, file: str | os.PathLike[str] | BinaryIO) -> None:
        """Write as ``.npz``."""
        fields = {name: getattr(self, name) for name in _FIELDS}
        np.savez(file, **{name: value for name, value in fields.items() if value is not None})

    @classmethod
    def load(cls, file: str | os.PathLike[str] | BinaryIO) -> Detections:
        """Read a file, or the content of one, written by :meth:`save`.

        Raises:
            ValueError: the file is missing, unreadable or lacks a field; the message names it.
            OSError: the storage does not answer.
        """
        where = os.fspath(file) if isinstance(file, (str, os.PathLike)) else "of a shard"
        try:
            if isinstance(file, (str, os.PathLike)):
                with open_regular(file) as opened:
                    return cls(**_read(opened))
            return cls(**_read(file))
        except Exception as error:
            if isinstance(error, OSError) and error.errno in {errno.EIO, *OF_STORAGE}:
                raise
            # Zip, zlib and numpy each have their own for a damaged file.
            raise ValueError(f"detections {where}: {type(error).__name__}: {error}") from None


def _read(file: Any) -> dict[str, np.ndarray]:
    """The fields; what a file declares is looked at before it is unpacked."""
    with zipfile.ZipFile(file) as archive:
        sizes = {info.filename: info.file_size for info in archive.infolist()}
        wanted = [name for name in _FIELDS if f"{name}.npy" in sizes or name not in _OPTIONAL]
        declared = sum(sizes.get(f"{name}.npy", 0) for name in wanted)
        if declared > _MOST_BYTES:
            raise ValueError(f"it declares {in_units(declared)} of boxes; at most {in_units(_MOST_BYTES)} are read")
        return {name: _array(archive, name) for name in wanted}


def _array(archive: zipfile.ZipFile, name: str) -> np.ndarray:
    with archive.open(f"{name}.npy") as member:
        version = np.lib.format.read_magic(member)
        header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, fortran, dtype = header(member)
        content = member.read()
    if dtype.kind not in "iuf":
        raise ValueError(f"{name} is of {dtype}; expected numbers")
    values = np.frombuffer(content, dtype=dtype).reshape(shape, order="F" if fortran else "C")
    if values.shape != shape:
        raise ValueError(f"{name} declares the shape {shape}")
    if name not in _WHOLE:
        return values.copy()
    if not ((values == np.trunc(values)) & (np.abs(values.astype(np.float64)) < 2**63)).all():
        raise ValueError(f"{name} holds what is no whole number")
    return values.astype(np.int64)
