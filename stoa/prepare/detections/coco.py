"""Detections in one COCO JSON: images, annotations or detections, categories.

An image's ``file_name`` (its image suffix left out) names video and time as keys do, or the image has ``video_id`` and
``seconds`` or a frame number (``frame``, ``frame_index`` or ``frame_id``, from 0). A list ``videos`` of ``id`` and
``name`` may give the video's name. ``bbox`` is x, y, width, height in pixels of the image's ``width`` and ``height``,
unless options say otherwise.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from stoa.prepare.detections.base import UNKNOWN_CLASS, DetectionSource, Drops, FrameBoxes, ReadOptions
from stoa.prepare.detections.keys import FrameKey, KeyPattern
from stoa.prepare.detections.labels import label_of_name
from stoa.prepare.detections.vinvl import is_number
from stoa.text_files import nfc, read_json

_IMAGE_SUFFIX = re.compile(r"\.(jpe?g|png|webp|bmp)$", re.IGNORECASE)
_FRAME_NUMBERS = ("frame", "frame_index", "frame_id")


class CocoFile(DetectionSource):
    """One file, held in memory.

    Args:
        class_names: of the labels; ``None`` takes the categories, ordered by their id.

    Raises:
        ValueError: the file is malformed, lacks a list, or none of its images names a video and time.
    """

    box_key = "bbox"
    box_format = "xywh"

    def __init__(self, path: Path, class_names: list[str] | None, keys: KeyPattern, options: ReadOptions) -> None:
        raw = read_json(path, f"detections {path}")
        found = _lists(raw, str(path))
        names = _by_id(found["categories"], "categories", str(path))
        self._category_names = {key: nfc(str(category.get("name"))) for key, category in names.items()}
        if class_names is None:
            class_names = [self._category_names[key] for key in sorted(names)]
        super().__init__(str(path), class_names, options)
        self._label_of = label_of_name(class_names)
        video_names = {
            key: nfc(str(video.get("name", key))) for key, video in _by_id(found["videos"], "videos", str(path)).items()
        }
        self._images: dict[str, list[tuple[Any, FrameKey, dict[str, Any]]]] = defaultdict(list)
        images = _by_id(found["images"], "images", str(path))
        for key, image in images.items():
            frame = _frame_key(image, keys, video_names)
            if frame is None:
                self.report(str(image.get("file_name", key)), f"{path}: image {key!r} names no video and time")
            else:
                self._images[frame.video].append((key, frame, image))
        if not self._images:
            raise ValueError(
                f"detections {path}: none of {len(images)} images names a video and time; pass a pattern that matches "
                f"file_name (pattern is {keys.pattern!r}), or give the images video_id and seconds"
            )
        self._objects: dict[Any, list[dict[str, Any]]] = defaultdict(list)
        for entry in found["objects"]:
            shown = entry.get("image_id") if isinstance(entry, dict) else entry
            if isinstance(shown, (int, str)) and shown in images:
                self._objects[shown].append(entry)
            else:
                self.report(f"image {shown}", f"{path}: box dropped: image_id {shown!r} is not among the images")
        keys.require_first_frame(f"detections {path}: frame numbers of 'images'")
        self.require_conventions()

    def read_frames(self, video: str, start_seconds: float, end_seconds: float, drops: Drops) -> list[FrameBoxes]:
        return [
            FrameBoxes(frame.seconds, *self._boxes(self._objects.get(key, []), drops), _size(image))
            for key, frame, image in self._images.get(video, [])
        ]

    def examples(self) -> Iterator[tuple[str, list[FrameBoxes], Drops]]:
        for images in self._images.values():
            for key, frame, image in images:
                drops = Drops()
                boxes = FrameBoxes(frame.seconds, *self._boxes(self._objects.get(key, []), drops), _size(image))
                yield f"image {image.get('file_name', key)}", [boxes], drops

    def _boxes(self, entries: list[dict[str, Any]], drops: Drops) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        boxes, labels, scores = [], [], []
        for entry in entries:
            bbox, category = entry.get("bbox"), entry.get("category_id")
            name = self._category_names.get(category) if isinstance(category, (int, str)) else None
            if not (isinstance(bbox, list) and len(bbox) == 4 and all(map(is_number, bbox))):
                drops.add("box", "no 'bbox' of four numbers", entry)
            elif name is None or name not in self._label_of:
                drops.add("box", UNKNOWN_CLASS, f"{category} ({name})")
            else:
                boxes.append(bbox)
                labels.append(self._label_of[name])
                scores.append(entry["score"] if is_number(entry.get("score")) else np.nan)
        return (
            np.array(boxes, dtype=np.float64).reshape(-1, 4),
            np.array(labels, dtype=np.int64),
            np.array(scores, dtype=np.float64),
        )


def _lists(raw: Any, where: str) -> dict[str, list[Any]]:
    if isinstance(raw, list):
        raise ValueError(
            f"detections {where}: a bare list of results names neither images nor classes; "
            "join it with 'images' and 'categories' of its annotation file"
        )
    if not isinstance(raw, dict):
        raise ValueError(f"detections {where}: expected a JSON object, got {type(raw).__name__}")
    objects = "detections" if "detections" in raw else "annotations"
    out = {"videos": raw.get("videos", [])}
    for name, key in (("images", "images"), ("categories", "categories"), ("objects", objects)):
        out[name] = raw.get(key)
        if not isinstance(out[name], list):
            raise ValueError(
                f"detections {where}: list {key!r} is missing; a COCO file has images, categories and boxes"
            )
    return out


def _by_id(entries: list[Any], name: str, where: str) -> dict[Any, dict[str, Any]]:
    out: dict[Any, dict[str, Any]] = {}
    for entry in entries:
        if not (isinstance(entry, dict) and isinstance(entry.get("id"), (int, str))):
            raise ValueError(f"detections {where}: {name} hold {str(entry)[:80]!r}; each needs an 'id'")
        if entry["id"] in out:
            raise ValueError(f"detections {where}: {name} hold id {entry['id']!r} twice; ids must be unique")
        out[entry["id"]] = entry
    return out


def _frame_key(image: dict[str, Any], keys: KeyPattern, video_names: dict[Any, str]) -> FrameKey | None:
    if not isinstance(image.get("video_id"), (int, str)):
        return keys.parse(_IMAGE_SUFFIX.sub("", str(image.get("file_name", ""))))
    video = video_names.get(image["video_id"], nfc(str(image["video_id"])))
    if is_number(image.get("seconds")):
        return FrameKey(video, float(image["seconds"]))
    number = next((image[name] for name in _FRAME_NUMBERS if is_number(image.get(name))), None)
    return None if number is None else keys.of_number(video, number)


def _size(image: dict[str, Any]) -> tuple[float, float] | None:
    width, height = image.get("width"), image.get("height")
    return (float(width), float(height)) if is_number(width) and is_number(height) and width and height else None
