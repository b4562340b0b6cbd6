"""How objects are detected. Needs no torch."""

from __future__ import annotations

from dataclasses import dataclass, field

from stoa.prepare.detections.filtering import FilterConfig


@dataclass(frozen=True, slots=True, kw_only=True)
class DetectorConfig:
    """Which detector sees which frames.

    Attributes:
        model: a builder of ``torchvision.models.detection``.
        weights: a file with its state_dict, or ``DEFAULT`` for those that torchvision downloads.
        labels: file of class names without the background, for weights of other classes than torchvision's.
        num_frames: frames of a clip, spread over it as training spreads them.
        min_size: shorter side in pixels that frames are resized to; ``None`` is the model's own.
        max_size: longer side that they may not exceed; ``None`` is the model's own.
        batch_frames: frames in one pass.
        device: ``auto`` is ``cuda`` where there is one, else ``cpu``.
        filter: which boxes are kept.
    """

    model: str = "fasterrcnn_resnet50_fpn_v2"
    weights: str = "DEFAULT"
    labels: str | None = None
    num_frames: int = 12
    min_size: int | None = None
    max_size: int | None = None
    batch_frames: int = 4
    device: str = "auto"
    filter: FilterConfig = field(default_factory=FilterConfig)

    def __post_init__(self) -> None:
        for name in ("num_frames", "batch_frames", "min_size", "max_size"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name} is {value}; pass 1 or more")
