"""Cross-modal self-similarity alignment (STGT, CSAL): which other pairs a clip and its caption may also answer to.

Shape legend: A clips of all ranks.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch

RELEASED_SCALE = 5.0


@dataclass(frozen=True, kw_only=True)
class CsalConfig:
    """Self-similarity as the target of VTC.

    Attributes:
        share: of the target; the rest is on the own pair. 1 is the second stage of STGT, 0 leaves it out.
        from_step: optimiser steps before it, with the own pair as the target: similarities mean nothing at first.
        scale: by which similarities are multiplied before the softmax: the release's is 5. ``auto`` (or null) is the
            least from 5 to 100 that leaves ``mass`` on the own pairs, since a fixed one leaves the less the larger the
            batch is.
        mass: see ``scale``. Where all pairs are alike 100 leaves less; ``csal_own`` in the log says how much.
        cut: pairs less alike than this are left out of the target; above 1 these are all but the own pair.
        smoothing: share of the target that is spread over all pairs.
    """

    share: float = 0.0
    from_step: int = 0
    scale: float | Literal["auto"] | None = "auto"
    mass: float = 0.5
    cut: float = 0.05
    smoothing: float = 0.01

    def __post_init__(self) -> None:
        for name in ("share", "mass", "smoothing"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"objectives.csal.{name} is {getattr(self, name)}; expected 0 to 1")
        if self.from_step < 0:
            raise ValueError(f"objectives.csal.from_step is {self.from_step}; expected 0 or more")
        if self.fixed_scale is not None and not self.fixed_scale > 0:
            raise ValueError(f"objectives.csal.scale is {self.scale}; expected more than 0, or auto")
        if self.fixed_scale is not None and self.mass != CsalConfig.mass:
            raise ValueError(
                f"objectives.csal.mass is {self.mass} and scale {self.scale}; only a scale of auto holds a mass: leave "
                "one of them out"
            )

    @property
    def fixed_scale(self) -> float | None:
        """``scale``, or None where it is chosen."""
        return None if self.scale == "auto" else self.scale


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
