"""Video-text contrast (STOA-VLP, VTC): symmetric InfoNCE over the global batch, to the own pair or to those alike.

Shape legend: B clips on this rank, A clips of all ranks, d joint width.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch.nn import functional as F

from stoa.models.layers import at_least_fp32, exact_product
from stoa.objectives.config import CsalConfig
from stoa.objectives.csal import csal_targets
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
        exact_product(scale * video_Bd, text_Ad.T),
        exact_product(scale * text_Bd, video_Ad.T),
        same_pairs(clip_keys_B, caption_keys_B),
        video_Ad,
        text_Ad,
    )


def own_columns(num_rows: int, device: torch.device) -> torch.Tensor:
    """Column of each of this rank's rows in the gathered batch, (B,)."""
    return rank() * num_rows + torch.arange(num_rows, device=device)


def own_pairs(same_BA: torch.Tensor) -> torch.Tensor:
    """(B, A) bool, True where row and column are one clip of the batch, for the ``same_BA`` of :func:`same_pairs`."""
    columns_B = own_columns(len(same_BA), same_BA.device)
    return torch.arange(same_BA.shape[1], device=columns_B.device) == columns_B[:, None]


def vtc_loss(scores: Similarities, *, smoothing: float = 0.0) -> torch.Tensor:
    """Mean of both directions' cross-entropies, each over the whole batch with repeated pairs masked.

    Args:
        scores: see :func:`similarities`.
        smoothing: share of the target that is spread over all pairs that are not masked.
    """
    own_BA = own_pairs(scores.same_BA)
    return _cross_entropy(scores, own_BA.to(scores.video_to_text_BA.dtype), own_BA, smoothing)


def csal_loss(scores: Similarities, config: CsalConfig) -> tuple[torch.Tensor, torch.Tensor]:
    """As :func:`vtc_loss`, with other pairs that are alike in the target (STGT, CSAL).

    Returns:
        (loss, mean share of self-similarity that is on the own pairs).
    """
    own_BA = own_pairs(scores.same_BA)
    video_AA, text_AA = (exact_product(x_Ad.detach(), x_Ad.detach().T) for x_Ad in (scores.video_Ad, scores.text_Ad))
    same_AA = gather_rows_no_grad(scores.same_BA.to(torch.uint8)).bool()
    alike_AA = csal_targets(video_AA, text_AA, same_AA, scale=config.fixed_scale, mass=config.mass, cut=config.cut)
    alike_BA = alike_AA[own_columns(len(own_BA), own_BA.device)]
    target_BA = config.share * alike_BA + (1 - config.share) * own_BA
    return _cross_entropy(scores, target_BA, own_BA, config.smoothing), (alike_BA * own_BA).sum(dim=1).mean()


def _cross_entropy(
    scores: Similarities, target_BA: torch.Tensor, own_BA: torch.Tensor, smoothing: float
) -> torch.Tensor:
    """Mean of both directions, over all pairs but those of the same clip or caption, which have no target."""
    masked_BA = scores.same_BA & ~own_BA
    spread_BA = (~masked_BA) / (~masked_BA).sum(dim=1, keepdim=True)
    target_BA = (1 - smoothing) * target_BA + smoothing * spread_BA
    losses = []
    for x_BA in (scores.video_to_text_BA, scores.text_to_video_BA):
        log_BA = x_BA.masked_fill(masked_BA, -torch.inf).log_softmax(dim=1).masked_fill(masked_BA, 0)
        losses.append(-(target_BA * log_BA).sum(dim=1).mean())
    return (losses[0] + losses[1]) / 2
