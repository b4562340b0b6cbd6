"""Parameter groups and the learning-rate schedule."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import nn

from stoa.training.config import OptimConfig

OBJECT_MODULES = tuple(
    f"model.{name}."
    for name in ("objects", "trajectories", "look", "motion", "relations", "changes", "actions", "action_motion")
)


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
