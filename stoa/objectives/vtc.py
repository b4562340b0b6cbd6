"""Video-text contrast (STOA-VLP, VTC): symmetric InfoNCE over the global batch, to the own pair or to those alike.

Shape legend: B clips on this rank, A clips of all ranks, d joint width.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch.nn import functional as F

from stoa.models.layers import at_least_fp32
from stoa.objectives.csal import CsalConfig, csal_targets
from stoa.objectives.gather import gather_rows, gather_rows_no_grad, rank

MAX_LOGIT_SCALE = math.log(100.0)


class Similarities(NamedTuple):
    """Scaled cosines of this rank's rows with the clips of all ranks, fp32 (or fp64).

    ``same_BA`` marks pairs of the same clip or the same caption: they are not negatives. ``video_Ad`` and ``text_Ad``
    are the unit vectors behind the cosines.
    """

    video_to_text_BA: torch.Tensor
    text_to_video_BA: torch.Tensor
    same_BA: torch.Tensor
    video_Ad: torch.Tensor
    text_Ad: torch.Tensor


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
        scale * video_Bd @ text_Ad.T,
        scale * text_Bd @ video_Ad.T,
        same_pairs(clip_keys_B, caption_keys_B),
        video_Ad,
        text_Ad,
    )


def own_columns(num_rows: int, device: torch.device) -> torch.Tensor:
    """Column of each of this rank's rows in the gathered batch, (B,)."""
    return rank() * num_rows + torch.arange(num_rows, device=device)


def vtc_loss(scores: Similarities, *, smoothing: float = 0.0) -> torch.Tensor:
    """Mean of both directions' cross-entropies, each over the whole batch with repeated pairs masked.

    Args:
        scores: see :func:`similarities`.
        smoothing: share of the target that is spread over all pairs that are not masked.
    """
    target_B = own_columns(len(scores.same_BA), scores.same_BA.device)
    own_BA = torch.arange(scores.same_BA.shape[1], device=target_B.device) == target_B[:, None]
    masked_BA = scores.same_BA & ~own_BA
    spread_BA = (~masked_BA) / (~masked_BA).sum(dim=1, keepdim=True)
    target_BA = (1 - smoothing) * own_BA + smoothing * spread_BA
    return _cross_entropy(scores, target_BA, masked_BA)


def csal_loss(scores: Similarities, config: CsalConfig) -> torch.Tensor:
    """As :func:`vtc_loss`, with pairs that are alike in the target (STGT, CSAL); none is masked."""
    columns_B = own_columns(len(scores.same_BA), scores.same_BA.device)
    cosines = (x_Ad.detach() @ x_Ad.detach().T for x_Ad in (scores.video_Ad, scores.text_Ad))
    target_BA = csal_targets(*cosines, scale=config.scale, mass=config.mass, cut=config.cut)[columns_B]
    A = target_BA.shape[1]
    own_BA = torch.arange(A, device=columns_B.device) == columns_B[:, None]
    target_BA = config.share * target_BA + (1 - config.share) * own_BA
    target_BA = (1 - config.smoothing) * target_BA + config.smoothing / A
    return _cross_entropy(scores, target_BA, torch.zeros_like(scores.same_BA))


def _cross_entropy(scores: Similarities, target_BA: torch.Tensor, masked_BA: torch.Tensor) -> torch.Tensor:
    """Mean of both directions; what is masked has no target either."""
    losses = []
    for x_BA in (scores.video_to_text_BA, scores.text_to_video_BA):
        log_BA = x_BA.masked_fill(masked_BA, -torch.inf).log_softmax(dim=1).masked_fill(masked_BA, 0)
        losses.append(-(target_BA * log_BA).sum(dim=1).mean())
    return (losses[0] + losses[1]) / 2
