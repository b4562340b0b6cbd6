"""Video-text contrast (STOA-VLP, VTC): symmetric InfoNCE over the global batch.

Shape legend: B clips on this rank, A clips of all ranks, d joint width.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch.nn import functional as F

from stoa.models.layers import at_least_fp32
from stoa.objectives.gather import gather_rows, gather_rows_no_grad, rank

MAX_LOGIT_SCALE = math.log(100.0)


class Similarities(NamedTuple):
    """Scaled cosines of this rank's rows with the clips of all ranks, fp32 (or fp64).

    ``same_BA`` marks pairs of the same clip or the same caption: they are not negatives.
    """

    video_to_text_BA: torch.Tensor
    text_to_video_BA: torch.Tensor
    same_BA: torch.Tensor


def temperature(logit_scale: torch.Tensor) -> torch.Tensor:
    """exp of the scale clamped to CLIP's ceiling of 100, with the gradient of the unclamped one.

    The parameter itself cannot be clamped: ZeRO's fp32 master would overwrite it.
    """
    scale = at_least_fp32(logit_scale).reshape(())
    return (scale + (scale.clamp(max=MAX_LOGIT_SCALE) - scale).detach()).exp()


def same_pairs(clip_keys_B: torch.Tensor, caption_keys_B: torch.Tensor) -> torch.Tensor:
    """(B, A) bool, True where row and column share clip or caption; the diagonal included."""
    clip_keys_A, caption_keys_A = gather_rows_no_grad(clip_keys_B), gather_rows_no_grad(caption_keys_B)
    return (clip_keys_B[:, None] == clip_keys_A) | (caption_keys_B[:, None] == caption_keys_A)


def similarities(
    video_Bd: torch.Tensor,
    text_Bd: torch.Tensor,
    logit_scale: torch.Tensor,
    clip_keys_B: torch.Tensor,
    caption_keys_B: torch.Tensor,
) -> Similarities:
    """Score this rank's clips against those of all ranks."""
    video_Bd, text_Bd = (F.normalize(at_least_fp32(x), dim=-1) for x in (video_Bd, text_Bd))
    video_Ad, text_Ad = gather_rows(video_Bd), gather_rows(text_Bd)
    scale = temperature(logit_scale)
    return Similarities(
        scale * video_Bd @ text_Ad.T, scale * text_Bd @ video_Ad.T, same_pairs(clip_keys_B, caption_keys_B)
    )


def own_columns(num_rows: int, device: torch.device) -> torch.Tensor:
    """Column of each of this rank's rows in the gathered batch, (B,)."""
    return rank() * num_rows + torch.arange(num_rows, device=device)


def vtc_loss(scores: Similarities) -> torch.Tensor:
    """Mean of both directions' cross-entropies, each over the whole batch with repeated pairs masked."""
    target_B = own_columns(len(scores.same_BA), scores.same_BA.device)
    columns_A = torch.arange(scores.same_BA.shape[1], device=target_B.device)
    masked_BA = scores.same_BA & (columns_A != target_B[:, None])
    losses = [
        F.cross_entropy(x_BA.masked_fill(masked_BA, -torch.inf), target_B)
        for x_BA in (scores.video_to_text_BA, scores.text_to_video_BA)
    ]
    return (losses[0] + losses[1]) / 2
