"""How trajectories move, an addition to STOA-VLP.

Shape legend: B clips, T frames, K boxes per frame, S = T * K boxes of a clip, N trajectories, d joint width.
"""

from __future__ import annotations

import torch
from torch import nn

from stoa.models.layers import coordinate_mlp

MOTION_SCALE = 2.0
"""Gain at first of what is added to a fresh trajectory token of 1, nearly all of which is the same for every one."""

LEAST_WEIGHT = 1e-3
"""Of a box whose detector gave it no confidence: it counts where there is no better one."""


class MotionEncoder(nn.Module):
    """An embedding of the line that the boxes of each trajectory follow.

    It is added to the token that leaves the trajectory encoder: of what enters a fresh one hardly anything comes out,
    see docs/study.md.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.mlp = coordinate_mlp(width, weight_std=2.5, most_bias=1.0)
        self.ln = nn.LayerNorm(width)
        nn.init.constant_(self.ln.weight, MOTION_SCALE)

    def forward(
        self, boxes_BTK4: torch.Tensor, scores_BTK: torch.Tensor, labels_BTK: torch.Tensor, labels_BN: torch.Tensor
    ) -> torch.Tensor:
        """Embed motion.

        Args:
            boxes_BTK4: fp32, in parts of the frame.
            scores_BTK: fp32, the detector's confidence.
            labels_BTK: int64, -1 where there is no usable box.
            labels_BN: int64, the label of each trajectory, -1 where there is none.

        Returns:
            (B, N, d), zero for a trajectory without boxes in two frames.
        """
        slopes_BN4, moves_BN = slopes(boxes_BTK4, scores_BTK, labels_BTK, labels_BN)
        embedded_BNd = self.ln(self.mlp(slopes_BN4.to(self.ln.weight.dtype)))
        return embedded_BNd.where(moves_BN[..., None], 0)


def slopes(
    boxes_BTK4: torch.Tensor, scores_BTK: torch.Tensor, labels_BTK: torch.Tensor, labels_BN: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """How fast each trajectory moves: the slope, over the time of a clip, of the least-squares line through its boxes,
    weighted by their confidence. Unlike the mean of moves from frame to frame it needs no boxes in consecutive frames,
    and a wrong box at one end does not decide it.

    Time goes from 0 to 1 over a clip, whose frames are the middles of T equal parts of it
    (:func:`stoa.data.sampling.sample_times`); so a slope is the same for more or fewer frames.

    Args:
        boxes_BTK4: fp32, in half precision differences would be mostly rounding; finite where there is a box.
        scores_BTK: fp32; finite where there is a box.
        labels_BTK: int64, -1 where there is no box.
        labels_BN: int64, -1 where there is no trajectory.

    Returns:
        slopes (B, N, 4) fp32, also under autocast, in parts of the frame a clip; and which trajectories (B, N) have
        boxes in two frames or more. The others' slopes are zero.
    """
    T = labels_BTK.shape[1]
    own_BNTK = (labels_BN[..., None, None] == labels_BTK[:, None]) & (labels_BN >= 0)[..., None, None]
    weights_BNTK = scores_BTK.clamp(min=LEAST_WEIGHT)[:, None].where(own_BNTK, 0)
    weights_BNTK = weights_BNTK / weights_BNTK.sum(dim=(2, 3), keepdim=True).clamp(min=LEAST_WEIGHT)
    times_T = torch.arange(T, device=boxes_BTK4.device, dtype=torch.float32).add(0.5).div(T)
    mean_BN = (weights_BNTK.sum(dim=-1) * times_T).sum(dim=-1)
    since_BNT = times_T - mean_BN[..., None]
    lever_BNTK = weights_BNTK * since_BNT[..., None]
    spread_BN = (lever_BNTK.sum(dim=-1) * since_BNT).sum(dim=-1)
    boxes_BTK4 = boxes_BTK4.where((labels_BTK >= 0)[..., None], 0)
    # Around their mean, else large coordinates cancel; a sum, not a product of matrices, which autocast would round.
    centre_BN4 = (weights_BNTK[..., None] * boxes_BTK4[:, None]).sum(dim=(2, 3))
    apart_BNTK4 = boxes_BTK4[:, None] - centre_BN4[:, :, None, None]
    slopes_BN4 = (lever_BNTK[..., None] * apart_BNTK4).sum(dim=(2, 3))
    moves_BN = own_BNTK.any(dim=-1).sum(dim=-1) > 1
    return (slopes_BN4 / spread_BN.where(moves_BN, 1)[..., None]).where(moves_BN[..., None], 0), moves_BN
