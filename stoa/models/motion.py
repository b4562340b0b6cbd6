"""How trajectories move, an addition to STOA-VLP.

Shape legend: B clips, T frames, K boxes per frame, S = T * K boxes of a clip, N trajectories, d joint width.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import nn

from stoa.models.layers import coordinate_mlp

MOTION_SCALE = 2.0
"""Gain at first of what is added to a fresh trajectory token of 1, nearly all of which is the same for every one."""

LEAST_WEIGHT = 1e-3
"""Of a box whose detector gave it no confidence: it counts where there is no better one."""


class Lines(NamedTuple):
    """The lines that trajectories follow, fp32, in parts of the frame; all zero for one without boxes.

    Attributes:
        slopes_BN4: how fast each coordinate goes, a clip; zero with boxes in one frame.
        centres_BN4: where the boxes are on average.
        strays_BN4: root of the mean square of what lies beside the line.
        moves_BN: bool, which trajectories have boxes in two frames or more.
    """

    slopes_BN4: torch.Tensor
    centres_BN4: torch.Tensor
    strays_BN4: torch.Tensor
    moves_BN: torch.Tensor


class Levers(NamedTuple):
    """What a least-squares line over the time of a clip takes of each box of a trajectory.

    Attributes:
        weights_BNTK: fp32; a trajectory's sum to 1 and make the mean of a value.
        levers_BNTK: fp32; a trajectory's sum to 0 and make the slope of a value, a clip. All zero for one in one frame.
        since_BNT: fp32, time since the mean of the trajectory's.
        moves_BN: bool, which trajectories have boxes in two frames or more.
    """

    weights_BNTK: torch.Tensor
    levers_BNTK: torch.Tensor
    since_BNT: torch.Tensor
    moves_BN: torch.Tensor


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

    def forward(self, lines: Lines) -> torch.Tensor:
        """(B, N, d), zero for a trajectory without boxes in two frames."""
        embedded_BNd = self.ln(self.mlp(lines.slopes_BN4.to(self.ln.weight.dtype)))
        return embedded_BNd.where(lines.moves_BN[..., None], 0)


def levers_of(scores_BTK: torch.Tensor, labels_BTK: torch.Tensor, labels_BN: torch.Tensor) -> Levers:
    """Weigh the boxes of each trajectory by their confidence.

    Time goes from 0 to 1 over a clip, whose frames are the middles of T equal parts of it
    (:func:`stoa.data.sampling.sample_times`); so a slope is the same for more or fewer frames.

    Args:
        scores_BTK: fp32; finite where there is a box.
        labels_BTK: int64, -1 where there is no box.
        labels_BN: int64, -1 where there is no trajectory.
    """
    T = labels_BTK.shape[1]
    own_BNTK = (labels_BN[..., None, None] == labels_BTK[:, None]) & (labels_BN >= 0)[..., None, None]
    weights_BNTK = scores_BTK.clamp(min=LEAST_WEIGHT)[:, None].where(own_BNTK, 0)
    weights_BNTK = weights_BNTK / weights_BNTK.sum(dim=(2, 3), keepdim=True).clamp(min=LEAST_WEIGHT)
    times_T = torch.arange(T, device=labels_BTK.device, dtype=torch.float32).add(0.5).div(T)
    mean_BN = (weights_BNTK.sum(dim=-1) * times_T).sum(dim=-1)
    since_BNT = times_T - mean_BN[..., None]
    lever_BNTK = weights_BNTK * since_BNT[..., None]
    spread_BN = (lever_BNTK.sum(dim=-1) * since_BNT).sum(dim=-1)
    moves_BN = own_BNTK.any(dim=-1).sum(dim=-1) > 1
    lever_BNTK = (lever_BNTK / spread_BN.where(moves_BN, 1)[..., None, None]).where(moves_BN[..., None, None], 0)
    return Levers(weights_BNTK, lever_BNTK, since_BNT, moves_BN)


def fit_lines(boxes_BTK4: torch.Tensor, labels_BTK: torch.Tensor, levers: Levers) -> Lines:
    """The least-squares line through the boxes of each trajectory. Unlike the mean of moves from frame to frame its
    slope needs no boxes in consecutive frames, and a wrong box at one end does not decide it.

    Args:
        boxes_BTK4: fp32, in half precision differences would be mostly rounding; finite where there is a box.
        labels_BTK: int64, -1 where there is no box.
        levers: of :func:`levers_of`.

    Returns:
        lines in fp32, also under autocast.
    """
    boxes_BTK4 = boxes_BTK4.where((labels_BTK >= 0)[..., None], 0)
    # Around their mean, else large coordinates cancel; a sum, not a product of matrices, which autocast would round.
    centre_BN4 = (levers.weights_BNTK[..., None] * boxes_BTK4[:, None]).sum(dim=(2, 3))
    apart_BNTK4 = boxes_BTK4[:, None] - centre_BN4[:, :, None, None]
    slopes_BN4 = (levers.levers_BNTK[..., None] * apart_BNTK4).sum(dim=(2, 3))
    beside_BNTK4 = apart_BNTK4 - levers.since_BNT[..., None, None] * slopes_BN4[:, :, None, None]
    squares_BN4 = (levers.weights_BNTK[..., None] * beside_BNTK4.square()).sum(dim=(2, 3))
    return Lines(slopes_BN4, centre_BN4, squares_BN4.sqrt(), levers.moves_BN)
