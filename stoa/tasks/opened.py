"""The model that a command, or a program, is given."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from stoa.config import from_dict, model_from_dict
from stoa.models.clip import image_side
from stoa.models.config import ActionConfig, BackboneConfig, FusionConfig, ModelConfig, ObjectConfig
from stoa.models.video_language import VideoLanguageModel
from stoa.models.weights import load_clip
from stoa.shipped import SMALL
from stoa.tasks.evaluation import Abilities
from stoa.tasks.export import is_exported, load_exported
from stoa.tasks.trained import TrainedModel, load_trained
from stoa.training import checkpoint


def open_model(path: str, device: torch.device | None = None) -> tuple[TrainedModel, Abilities, dict[str, Any], Path]:
    """A model from a run, one of its checkpoints, or what ``stoa export`` has written.

    Args:
        path: of it; ``small``, which is shipped; or ``NAME:TAG`` of open_clip, or ``NAME:FILE``, for CLIP by itself.
        device: where to put it; none is the first GPU, or without one the CPU.

    Returns:
        the model, what it can do, facts of its training (``task``), and the folder for its reports.

    Raises:
        ValueError: there is none, or it is damaged.
    """
    device = device or torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if path == "small":
        return (*open_model(str(SMALL), device)[:3], Path())
    if ":" in path and not Path(path).exists():
        return _open_clip(path, device)
    if is_exported(Path(path)):
        if checkpoint.holds_checkpoints(Path(path)):
            raise ValueError(
                f"{path} holds an export (config.json) and checkpoints as well; name one of its folders "
                f"{checkpoint.CHECKPOINTS} and {checkpoint.BEST}, or move the export to a folder of its own"
            )
        trained, abilities, task = load_exported(Path(path), device, model_from_dict)
        return trained, abilities, {"task": task}, Path(path)
    return checkpoint.found_and_read(path, lambda folder: _open_checkpoint(folder, device))


def _open_clip(named: str, device: torch.device) -> tuple[TrainedModel, Abilities, dict[str, Any], Path]:
    """Pretrained towers, which embed. All else that a model has is new, and no ability is claimed of it."""
    name, _, weights = named.partition(":")
    config = ModelConfig(
        backbone=BackboneConfig(name=name),
        objects=ObjectConfig(num_trajectories=0),
        actions=ActionConfig(num_tokens=0),
        fusion=FusionConfig(layers=1),
    )
    model = VideoLanguageModel(config)
    origin = {"checkpoint": named, "weights": load_clip(model.clip, config.backbone, weights)}
    trained = TrainedModel(model.to(device).eval(), device, image_side(config.backbone), origin)
    return trained, Abilities("one_pass", "end", None, ["vtc"]), {}, Path()


def _open_checkpoint(folder: Path, device: torch.device) -> tuple[TrainedModel, Abilities, dict[str, Any], Path]:
    facts = checkpoint.read_run(folder)
    config = from_dict(facts["config"])
    objectives = config.objectives
    abilities = Abilities(objectives.plm_form, objectives.null_token, facts.get("answers"), facts.get("losses"))
    return load_trained(folder, config.model, device), abilities, facts, folder.parent.parent
