"""A trained model from its checkpoint."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from stoa.models.clip import image_side, require_architecture
from stoa.models.config import ModelConfig
from stoa.models.video_language import VideoLanguageModel
from stoa.models.weights import Trained, load_pretrained, load_strictly
from stoa.training import checkpoint


@dataclass(frozen=True, slots=True)
class TrainedModel:
    """A model in evaluation mode and where it comes from.

    Attributes:
        model: on ``device``.
        device: its device.
        side: of the frames it sees, in pixels.
        origin: facts for the protocol card: checkpoint, step, commit of training, SHA-256 of the weights.
    """

    model: VideoLanguageModel
    device: torch.device
    side: int
    origin: dict[str, Any]


def load_trained(folder: Path, config: ModelConfig, device: torch.device) -> TrainedModel:
    """Build the model of a checkpoint and load its weights strictly, as fp32.

    Args:
        folder: as :func:`stoa.training.checkpoint.find` gives it.
        config: the model's configuration as stored in the checkpoint.
        device: where to put it.

    Raises:
        ValueError: the weights do not fit, or the architecture has changed; the message names what.
    """
    run = checkpoint.read_run(folder)
    require_architecture(config.backbone, run["architecture"], f"checkpoint {folder}")
    model = VideoLanguageModel(config, used_token_ids=run["used_token_ids"])
    weights, weights_sha256 = checkpoint.read_weights(folder)
    state = {name: tensor.float() for name, tensor in weights.items()}
    load_strictly(model, state, str(folder), "use them with the version of stoa that trained them")
    origin = {
        "checkpoint": str(folder),
        "step": run["step"],
        "trained at commit": run["commit"],
        "weights sha256": weights_sha256,
    }
    return TrainedModel(model.to(device).eval(), device, image_side(config.backbone), origin)


def resized(trained: TrainedModel, *, num_frames: int | None, max_tokens: int | None) -> TrainedModel:
    """The model for other numbers of frames or text tokens than it was trained with; none is as it is.

    Embeddings of frames are interpolated in time; longer texts get positions of the text tower.
    """
    config = trained.model.config
    changed = replace(config, num_frames=num_frames or config.num_frames, max_tokens=max_tokens or config.max_tokens)
    if changed == config:
        return trained
    used_ids = trained.model.lm_head.used_ids
    used = None if used_ids is None else used_ids.tolist()
    model = VideoLanguageModel(changed, used_token_ids=used)
    weights = {name: tensor.cpu() for name, tensor in trained.model.state_dict().items()}
    load_pretrained(model, Trained(weights, config, used, str(trained.origin["checkpoint"])))
    if config.num_answers:
        model.answer_head.load_state_dict(trained.model.answer_head.state_dict())
    return replace(trained, model=model.to(trained.device).eval())


def untrained(trained: TrainedModel, *, seed: int = 0) -> TrainedModel:
    """The same architecture with fresh random weights: what training has to beat."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        head = trained.model.lm_head
        used = None if head.used_ids is None else head.used_ids.tolist()
        model = VideoLanguageModel(trained.model.config, used_token_ids=used)
    return TrainedModel(model.to(trained.device).eval(), trained.device, trained.side, {"checkpoint": "untrained"})
