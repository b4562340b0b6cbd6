"""Prefix language modelling (STOA-VLP, PLM) in one pass.

Shape legend: B clips, L text tokens, w text width.
"""

from __future__ import annotations

import torch

from stoa.batch import VideoTextBatch
from stoa.models.video_language import TextFeatures, VideoFeatures, VideoLanguageModel
from stoa.objectives.masks import prefix_mask
from stoa.objectives.mlm import language_loss
from stoa.objectives.random import Stream, uniform


def draw_prefix(text_mask_BL: torch.Tensor, uniform_B: torch.Tensor) -> torch.Tensor:
    """Prefix lengths (B,), uniform in 1..n-1 for n tokens; 1 (the start token alone) is captioning."""
    n_B = text_mask_BL.sum(dim=1)
    return (1 + (uniform_B * (n_B - 1)).long()).minimum(n_B - 1)


def plm_loss(
    model: VideoLanguageModel,
    batch: VideoTextBatch,
    video: VideoFeatures,
    text: TextFeatures,
    *,
    seed: int,
    step: int,
) -> torch.Tensor:
    """Row i predicts token i+1, for every token after the prefix, the end token included."""
    zero = torch.zeros_like(batch.position_B)
    prefix_B = draw_prefix(batch.text_mask_BL, uniform(seed, step, Stream.PLM, batch.position_B, zero))
    mask_BSS = prefix_mask(batch.text_mask_BL, prefix_B, video.tokens_BGd.shape[1])
    _, fused_BLw = model.fuse(video.tokens_BGd, text.tokens_BLd, mask_BSS)
    next_L = torch.arange(1, batch.tokens_BL.shape[1], device=prefix_B.device)
    valid = (next_L >= prefix_B[:, None]) & batch.text_mask_BL[:, 1:]
    return language_loss(model, fused_BLw[:, :-1], batch.tokens_BL[:, 1:], valid)
