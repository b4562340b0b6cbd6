"""What trajectories look like, and how that changes, an addition to STOA-VLP.

Shape legend: B clips, T frames, K boxes per frame, N trajectories, h vision width, d joint width.
"""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F

from stoa.models.layers import at_least_fp32, exact_product
from stoa.models.motion import MOTION_SCALE, Levers


class _BoxReader(nn.Module):
    """An embedding of a sum over a trajectory's boxes of what the patches under them hold.

    It is added to the token where motion is, for the same reason: what stands in the boxes hardly shows in a fresh one.
    """

    def __init__(self, vision_width: int, width: int) -> None:
        super().__init__()
        self.ln_look = nn.LayerNorm(vision_width)
        self.mlp = nn.Sequential(nn.Linear(vision_width, width), nn.GELU(), nn.Linear(width, width))
        self.ln = nn.LayerNorm(width)
        nn.init.constant_(self.ln.weight, MOTION_SCALE)

    def read(self, pooled_BTKh: torch.Tensor, factors_BNTK: torch.Tensor, there_BN: torch.Tensor) -> torch.Tensor:
        norm = self.ln_look
        looks_BTKh = F.layer_norm(
            at_least_fp32(pooled_BTKh),
            norm.normalized_shape,
            at_least_fp32(norm.weight),
            at_least_fp32(norm.bias),
            norm.eps,
        )
        sums_BNh = exact_product(factors_BNTK.flatten(2).to(looks_BTKh.dtype), looks_BTKh.flatten(1, 2))
        embedded_BNd = self.ln(self.mlp(sums_BNh.to(self.ln.weight.dtype)))
        return embedded_BNd.where(there_BN[..., None], 0)


class LookEncoder(_BoxReader):
    """An embedding of the mean of what the patches under a trajectory's boxes hold."""

    def forward(self, pooled_BTKh: torch.Tensor, levers: Levers) -> torch.Tensor:
        """Embed looks.

        Args:
            pooled_BTKh: of :class:`stoa.models.objects.Boxes`.
            levers: of the trajectories.

        Returns:
            (B, N, d), zero where a clip has fewer trajectories.
        """
        weights_BNTK = levers.weights_BNTK
        return self.read(pooled_BTKh, weights_BNTK, (weights_BNTK > 0).flatten(2).any(dim=-1))


class ChangeEncoder(_BoxReader):
    """An embedding of the slope over time of what the patches under a trajectory's boxes hold: what grows lighter or
    darker stands in its boxes one after the other."""

    def forward(self, pooled_BTKh: torch.Tensor, levers: Levers) -> torch.Tensor:
        """Embed changes, as :class:`LookEncoder` does looks; zero for a trajectory without boxes in two frames."""
        return self.read(pooled_BTKh, levers.levers_BNTK, levers.moves_BN)
