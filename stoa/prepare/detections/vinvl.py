"""VinVL's detections: one JSON file a video with a list of frames, or the objects of one frame.

A frame is ``{"objects": [{"class", "rect": [x1, y1, x2, y2], "conf"}, ...]}``; other fields (attributes, features) are
not read. In files of one video a frame may say its time, ``"seconds"``, from the start of the video file; frames that
do not are spread over the clip as :func:`stoa.data.sampling.sample_times` says.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from stoa.data.sampling import sample_times
from stoa.prepare.detections.base import UNKNOWN_CLASS, DetectionSource, Drops, FrameBoxes, ReadOptions
from stoa.prepare.detections.labels import label_of_name
from stoa.text_files import decode, nfc, on_disk, parse_json

_EXAMPLES = 200  # files of which the conventions are looked at before all others


class VinVLFolder(DetectionSource):
    """A folder of ``{video}.json`` files."""

    box_key = "rect"

    def __init__(self, folder: Path, class_names: list[str], options: ReadOptions) -> None:
        super().__init__(str(folder), class_names, options)
        with os.scandir(folder) as entries:  # of millions; a listing would hold them all
            if not any(entry.name.endswith(".json") or entry.is_dir() for entry in entries):
                raise ValueError(
                    f"detections {folder}: no .json file in this folder; expected one a video, named by it"
                )
        self._folder = folder
        self._label_of = label_of_name(class_names)
        self.require_conventions()

    def examples(self) -> Iterator[tuple[str, list[FrameBoxes], Drops]]:
        with os.scandir(self._folder) as entries:
            names = [entry.name for entry in islice(entries, _EXAMPLES)]
        for name in sorted(names):
            if name.endswith(".json"):
                drops = Drops()
                try:
                    yield name, self.read_frames(name.removesuffix(".json"), 0.0, 1.0, drops), drops
                except ValueError:  # told where its clip is come to
                    continue

    def read_frames(self, video: str, start_seconds: float, end_seconds: float, drops: Drops) -> list[FrameBoxes]:
        path = on_disk(self._folder / f"{video}.json")
        if not path.is_file():
            return []
        frames = load_json(path.read_bytes(), str(path))
        if not isinstance(frames, list) or not frames:
            raise ValueError(f"{path}: expected a list of frames with at least one")
        if not all(isinstance(frame, dict) and isinstance(frame.get("objects"), list) for frame in frames):
            raise ValueError(f"{path}: a frame is no object with a list 'objects'")
        times = _times(frames, start_seconds, end_seconds, str(path))
        return [
            FrameBoxes(seconds, *read_objects(frame["objects"], self._label_of, drops))
            for seconds, frame in zip(times, frames, strict=True)
        ]


def read_objects(
    objects: list[Any], label_of: dict[str, int], drops: Drops
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Boxes (n, 4) float64, labels (n,) int64 and scores (n,) float64 of a frame; see :class:`FrameBoxes`."""
    boxes: list[list[float]] = []
    labels: list[int] = []
    scores: list[float] = []
    for found in objects:
        rect = found.get("rect") if isinstance(found, dict) else None
        if not (isinstance(rect, list) and len(rect) == 4 and all(map(is_number, rect))):
            drops.add("box", "no 'rect' of four numbers", found)
        elif not (isinstance(found.get("class"), str) and nfc(found["class"]) in label_of):
            drops.add("box", UNKNOWN_CLASS, repr(found.get("class")))
        else:
            boxes.append(rect)
            labels.append(label_of[nfc(found["class"])])
            scores.append(found["conf"] if is_number(found.get("conf")) else np.nan)
    return (
        np.array(boxes, dtype=np.float64).reshape(-1, 4),
        np.array(labels, dtype=np.int64),
        np.array(scores, dtype=np.float64),
    )


def load_json(data: bytes, where: str) -> Any:
    """Parse JSON.

    Raises:
        ValueError: it is malformed or cut; the message begins with ``where``.
    """
    return parse_json(decode(data, where), where)


def is_number(value: Any) -> bool:
    """Whether JSON gave a number that a float can hold."""
    return isinstance(value, float) or (type(value) is int and abs(value) < 2**63)


def _times(frames: list[dict[str, Any]], start_seconds: float, end_seconds: float, where: str) -> list[float]:
    given = ["seconds" in frame for frame in frames]
    if not any(given):
        return sample_times(start_seconds, end_seconds, len(frames)).tolist()
    if not all(given):
        raise ValueError(f"{where}: frame {given.index(False)} has no 'seconds' but others do; give all or none")
    if not all(is_number(frame["seconds"]) for frame in frames):
        raise ValueError(f"{where}: a frame's 'seconds' is no number")
    return [float(frame["seconds"]) for frame in frames]
