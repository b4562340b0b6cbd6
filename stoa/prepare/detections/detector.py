"""A torchvision detector over the frames of a clip.

Shape legend: T frames, H height, W width, C channels.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torchvision
from torch import nn

from stoa.detections import Detections
from stoa.downloads import from_url
from stoa.prepare.detections.config import DetectorConfig
from stoa.prepare.detections.filtering import filter_detections
from stoa.prepare.detections.labels import read_class_names
from stoa.tensor_files import read_tensors

# What torchvision calls classes that COCO numbers but never shows.
_UNUSED = "N/A"


class Detector:
    """Runs a detector. ``class_names`` is what the labels of its boxes are an index into.

    Raises:
        ValueError: torchvision has no such model, the weights are missing or do not fit it, or the labels do not fit
            the weights.
    """

    def __init__(self, config: DetectorConfig) -> None:
        known = torchvision.models.list_models(module=torchvision.models.detection)
        if config.model not in known:
            close = difflib.get_close_matches(config.model, known, n=1)
            raise ValueError(
                f"model is {config.model!r}; "
                + (f"did you mean {close[0]!r}?" if close else f"torchvision has {', '.join(known)}")
            )
        self._config = config
        device = config.device
        if device == "auto":
            device = "cuda" if torch.cuda.is_available() else "cpu"
        try:
            self._device = torch.device(device)
        except RuntimeError as error:
            raise ValueError(f"device is {device!r}: {str(error).splitlines()[0]}; pass auto, cpu or cuda") from None
        published = torchvision.models.get_model_weights(config.model).DEFAULT
        path = Path(config.weights)
        if config.weights == "DEFAULT":
            path = from_url(
                published.url, instead=f"download it elsewhere and name it with --weights FILE for {config.model}"
            )
        model, num_classes = _load(config.model, path)
        _resize_to(model, config)
        self._model = model.eval().to(self._device)
        names = _names(config, num_classes, published.meta["categories"])
        self.class_names = [name for name in names if name != _UNUSED]
        used = np.array([name != _UNUSED for name in names])
        # The model's class 0 is the background, which it never reports.
        self._label_of_class = np.concatenate(([-1], np.where(used, np.cumsum(used) - 1, -1)))

    @torch.inference_mode()
    def __call__(self, frames_THWC: np.ndarray, times_seconds: np.ndarray) -> Detections:
        """Detect on uint8 RGB frames with the given times; of frames that repeat, one is seen."""
        times, first = np.unique(times_seconds, return_index=True)
        frames_TCHW = torch.from_numpy(np.ascontiguousarray(frames_THWC[first])).permute(0, 3, 1, 2)
        outputs: list[dict[str, torch.Tensor]] = []
        for chunk in frames_TCHW.split(self._config.batch_frames):
            outputs += self._model(list(chunk.to(self._device).float() / 255))
        labels = self._label_of_class[torch.cat([out["labels"] for out in outputs]).cpu().numpy()]
        used = labels >= 0
        height, width = frames_THWC.shape[1:3]
        found = Detections(
            frame_times_seconds=times.astype(np.float64),
            frame_index=np.repeat(np.arange(len(times)), [len(out["labels"]) for out in outputs])[used],
            boxes=torch.cat([out["boxes"] for out in outputs]).cpu().numpy().astype(np.float32)[used],
            labels=labels[used],
            scores=torch.cat([out["scores"] for out in outputs]).cpu().numpy().astype(np.float32)[used],
            size_wh=np.array((width, height), dtype=np.int64),
        )
        return filter_detections(found, self._config.filter)


def _load(name: str, path: Path) -> tuple[nn.Module, int]:
    """The model with the weights of a file, and its number of classes, the background included."""
    if not path.is_file():
        raise ValueError(f"weights {path} do not exist; pass a file with a state_dict, or DEFAULT to download some")
    try:
        state = read_tensors(path)
    except ValueError as error:
        raise ValueError(f"weights {path}: it {error}; expected a state_dict written by torch.save") from None
    if not isinstance(state, Mapping) or not all(isinstance(value, torch.Tensor) for value in state.values()):
        raise ValueError(f"weights {path} hold no state_dict, a map from names to tensors; save model.state_dict()")
    num_classes = _num_classes(name, state, path)
    model = torchvision.models.get_model(name, weights=None, weights_backbone=None, num_classes=num_classes)
    try:
        model.load_state_dict(state)
    except RuntimeError as error:
        raise ValueError(f"weights {path} do not fit {name}: {' '.join(str(error).split())[:300]}") from None
    return model, num_classes


def _num_classes(name: str, state: Mapping[str, torch.Tensor], path: Path) -> int:
    """Read off the first parameter whose length depends on the number of classes, whatever the model calls it."""
    with torch.device("meta"):
        two, three = (
            torchvision.models.get_model(name, weights=None, weights_backbone=None, num_classes=n).state_dict()
            for n in (2, 3)
        )
    key = next(key for key in two if two[key].shape != three[key].shape)
    if key not in state or state[key].ndim == 0:
        raise ValueError(f"weights {path} do not fit {name}: {key!r} is missing; pass the model they belong to")
    step = len(three[key]) - len(two[key])
    num_classes, rest = divmod(len(state[key]) - len(two[key]) + 2 * step, step)
    if rest or num_classes < 2:
        raise ValueError(
            f"weights {path} do not fit {name}: {key!r} has length {len(state[key])}, no number of classes"
        )
    return num_classes


def _names(config: DetectorConfig, num_classes: int, published: list[str]) -> list[str]:
    """The name of each class but the background."""
    if config.labels is None:
        if num_classes != len(published):
            raise ValueError(
                f"weights {config.weights} have {num_classes - 1} classes and the background, not the "
                f"{len(published) - 1} of torchvision's; pass labels, a file of their names"
            )
        return published[1:]
    names = read_class_names(config.labels)
    if len(names) != num_classes - 1:
        raise ValueError(
            f"labels {config.labels} have {len(names)} names, but weights {config.weights} have {num_classes - 1} "
            "classes and the background; give each class a name and leave out the background"
        )
    return names


def _resize_to(model: Any, config: DetectorConfig) -> None:
    if config.min_size is None and config.max_size is None:
        return
    transform = model.transform
    if transform.fixed_size is not None:
        raise ValueError(f"min_size or max_size is given, but {config.model} always resizes to {transform.fixed_size}")
    if config.min_size is not None:
        transform.min_size = (config.min_size,)
    if config.max_size is not None:
        transform.max_size = config.max_size
