"""Cross-modal self-similarity alignment (STGT, CSAL): which other pairs a clip and its caption may also answer to.

Shape legend: A clips of all ranks.
"""

from __future__ import annotations

import torch

RELEASED_SCALE = 5.0


@torch.no_grad()
def csal_targets(
    video_AA: torch.Tensor,
    text_AA: torch.Tensor,
    repeats_AA: torch.Tensor | None = None,
    *,
    scale: float | None,
    mass: float,
    cut: float,
) -> torch.Tensor:
    """``softmax(scale * C)`` of ``C = max(0, V) * max(0, X)``, where C is at least ``cut``; for both directions.

    A pair is similar if its clips and its captions are. No gradient flows through the targets, which are a teacher.

    Args:
        video_AA: cosines of the clips.
        text_AA: cosines of the captions.
        repeats_AA: True where a pair has a clip or caption of the own one: left out, but for the own pair.
        scale: see :class:`CsalConfig`; None chooses it.
        mass, cut: see there.

    Returns:
        (A, A), rows sum to 1.
    """
    alike_AA = video_AA.clamp(min=0) * text_AA.clamp(min=0)
    own_AA = torch.eye(len(alike_AA), dtype=torch.bool, device=alike_AA.device)
    left_out_AA = alike_AA < cut if repeats_AA is None else (alike_AA < cut) | repeats_AA
    alike_AA = alike_AA.masked_fill(left_out_AA & ~own_AA, -torch.inf)
    if scale is not None:
        return (scale * alike_AA).softmax(dim=1)
    return (_least_scale(alike_AA, mass) * alike_AA).softmax(dim=1)


def _least_scale(alike_AA: torch.Tensor, mass: float) -> torch.Tensor:
    """From :data:`RELEASED_SCALE` on, by bisection: the own pair is a row's most similar, so its share grows."""
    low, high = (alike_AA.new_full((), value) for value in (RELEASED_SCALE, 100.0))
    for _ in range(24):
        middle = (low + high) / 2
        enough = (middle * alike_AA).softmax(dim=1).diagonal().mean() >= mass
        low, high = torch.where(enough, low, middle), torch.where(enough, middle, high)
    return torch.where((RELEASED_SCALE * alike_AA).softmax(dim=1).diagonal().mean() >= mass, RELEASED_SCALE, high)
