"""The pre-training objective: every loss with its weight."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import torch
from torch import nn

from stoa.batch import VideoTextBatch
from stoa.models.video_language import VideoLanguageModel
from stoa.objectives.mlm import mlm_loss
from stoa.objectives.plm import plm_loss
from stoa.objectives.vtc import similarities, temperature, vtc_loss
from stoa.objectives.vtm import vtm_loss


@dataclass(frozen=True, kw_only=True)
class ObjectivesConfig:
    """Weights of the losses; 0 leaves a loss out."""

    vtc: float = 1.0
    vtm: float = 1.0
    mlm: float = 1.0
    plm: float = 1.0

    def __post_init__(self) -> None:
        weights = dataclasses.asdict(self)
        for name, weight in weights.items():
            if not weight >= 0:
                raise ValueError(f"objectives.{name} is {weight}; a weight is >= 0 (0 leaves it out)")
        if not any(weights.values()):
            raise ValueError("all weights under objectives are 0; give at least one a positive weight")


class PretrainingObjective(nn.Module):
    """Batch in, weighted sum of losses out.

    Args:
        model: see :class:`VideoLanguageModel`.
        config: the weights.
        seed: keys the counter-based generator of masks, prefixes and negatives.
    """

    def __init__(self, model: VideoLanguageModel, config: ObjectivesConfig, *, seed: int) -> None:
        super().__init__()
        self.model = model
        self.config = config
        self.seed = seed

    def forward(self, batch: VideoTextBatch, step: int) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """Losses of one step.

        Args:
            batch: on the model's device.
            step: index of the micro-step; with the seed and the positions it fixes every draw.

        Returns:
            (total, scalars to log, detached and on the device). Averaged over ranks, each is its global mean.
        """
        model, weights = self.model, self.config
        draws = {"seed": self.seed, "step": step}
        video = model.encode_video(batch.frames_BTCHW)
        text = model.encode_text(batch.tokens_BL, batch.text_mask_BL)
        losses: dict[str, torch.Tensor] = {}
        extras: dict[str, torch.Tensor] = {}
        if weights.vtc or weights.vtm:
            scores = similarities(
                video.pooled_Bd, text.pooled_Bd, model.clip.logit_scale, batch.clip_keys_B, batch.caption_keys_B
            )
        if weights.vtc:
            losses["vtc"] = vtc_loss(scores)
            extras["temperature"] = temperature(model.clip.logit_scale).detach()
        if weights.vtm:
            losses["vtm"], extras["vtm_accuracy"] = vtm_loss(model, batch, video, text, scores, **draws)
        if weights.mlm:
            losses["mlm"] = mlm_loss(model, batch, video, **draws)
        if weights.plm:
            losses["plm"] = plm_loss(model, batch, video, text, **draws)
        terms = [getattr(weights, name) * loss for name, loss in losses.items()]
        total = torch.stack(terms).sum()
        return total, {"loss": total.detach(), **{k: v.detach() for k, v in losses.items()}, **extras}
