"""Parameter groups and the learning-rate schedule."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn


@dataclass(frozen=True, kw_only=True)
class OptimConfig:
    """AdamW with a linear warm-up and a cosine to zero. The values are ours: the papers give none.

    Attributes:
        clip_lr: peak learning rate of the CLIP towers and the temperature.
        new_lr: peak learning rate of everything that is not in CLIP.
        objects_lr: peak learning rate of the modules of objects, motion, trajectories and actions; null is ``new_lr``.
        weight_decay: of matrices; norms, biases, embeddings and the temperature have none.
        beta1: decay of AdamW's mean of gradients.
        beta2: decay of AdamW's mean of their squares.
        eps: what AdamW adds to the root of the latter; gradients that are not larger move a weight less than the
            learning rate says.
        warmup_steps: optimiser steps from 0 to the peak.
        frozen_vision_blocks: blocks of the vision tower, from the first, that are not trained, nor are its embeddings;
            0 trains the whole tower. None is as in the run that fine-tuning starts from, and 0 in pre-training.
    """

    clip_lr: float = 1e-5
    new_lr: float = 1e-4
    objects_lr: float | None = None
    weight_decay: float = 0.05
    beta1: float = 0.9
    beta2: float = 0.98
    eps: float = 1e-8
    warmup_steps: int = 500
    frozen_vision_blocks: int | None = None

    def __post_init__(self) -> None:
        for name in ("clip_lr", "new_lr", "objects_lr", "weight_decay", "warmup_steps", "frozen_vision_blocks"):
            if not (getattr(self, name) or 0) >= 0:
                raise ValueError(f"training.optim.{name} is {getattr(self, name)}; expected 0 or more")
        for name in ("beta1", "beta2"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"training.optim.{name} is {getattr(self, name)}; expected 0 or more and less than 1")
        if not self.eps > 0:
            raise ValueError(f"training.optim.eps is {self.eps}; expected more than 0")


OBJECT_MODULES = tuple(f"model.{name}." for name in ("objects", "trajectories", "motion", "actions"))


def is_decayed(name: str, parameter: nn.Parameter) -> bool:
    """Matrices that multiply activations decay; tables of positions, types, tokens and queries do not."""
    return parameter.ndim >= 2 and not any(word in name for word in ("embedding", "positions", "mask_token", "queries"))


def parameter_groups(objective: nn.Module, config: OptimConfig) -> list[dict[str, Any]]:
    """Groups, {towers, objects if they have a rate of their own, new} x {decayed, not}, each with its ``peak_lr``."""
    peaks = {"towers": config.clip_lr, "objects": config.objects_lr, "new": config.new_lr}
    groups: dict[tuple[str, bool], list[nn.Parameter]] = {}
    for name, parameter in objective.named_parameters():
        if parameter.requires_grad:
            part = "new" if peaks[_part(name)] is None else _part(name)
            groups.setdefault((part, is_decayed(name, parameter)), []).append(parameter)
    return [
        {
            "params": parameters,
            "lr": 0.0,
            "peak_lr": peaks[part],
            "weight_decay": config.weight_decay if decayed else 0.0,
        }
        for (part, decayed), parameters in groups.items()
    ]


def _part(name: str) -> str:
    if name.startswith("model.clip."):
        return "towers"
    return "objects" if name.startswith(OBJECT_MODULES) else "new"


def build_optimizer(objective: nn.Module, config: OptimConfig) -> torch.optim.AdamW:
    return torch.optim.AdamW(
        parameter_groups(objective, config), betas=(config.beta1, config.beta2), eps=config.eps, fused=True
    )


def lr_factor(step: int, warmup_steps: int, max_steps: int) -> float:
    """Share of the peak learning rate at optimiser step ``step`` (0-based)."""
    if step < warmup_steps:
        return (step + 1) / warmup_steps
    progress = (step - warmup_steps) / max(1, max_steps - warmup_steps)
    return 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))


def set_learning_rates(optimizer: Any, factor: float) -> None:
    """Set every group to ``factor`` of its peak; the schedule is a pure function of the step, so it has no state."""
    for group in optimizer.param_groups:
        group["lr"] = factor * group["peak_lr"]
