"""How trajectories move, an addition to STOA-VLP.

Shape legend: B clips, T frames, K boxes per frame, S = T * K boxes of a clip, N trajectories, d joint width.
"""

from __future__ import annotations

import torch
from torch import nn

from stoa.models.layers import coordinate_mlp

MOTION_SCALE = 2.0
"""Gain at first of what is added to a fresh trajectory token of 1, nearly all of which is the same for every one."""


class MotionEncoder(nn.Module):
    """The mean, over the boxes of a trajectory, of an embedding of how each has moved since the frame before.

    It is added to the token that leaves the trajectory encoder: of what enters a fresh one hardly anything comes out,
    see docs/study.md.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.mlp = coordinate_mlp(width, weight_std=2.5, most_bias=1.0)
        self.ln = nn.LayerNorm(width)
        nn.init.constant_(self.ln.weight, MOTION_SCALE)

    def forward(self, boxes_BTK4: torch.Tensor, labels_BTK: torch.Tensor, labels_BN: torch.Tensor) -> torch.Tensor:
        """Embed motion.

        Args:
            boxes_BTK4: fp32, in parts of the frame.
            labels_BTK: int64, -1 where there is no usable box.
            labels_BN: int64, the label of each trajectory, -1 where there is none.

        Returns:
            (B, N, d), zero for a trajectory without boxes in two frames on end.
        """
        moves_BTK4, has_moved_BTK = box_moves(boxes_BTK4, labels_BTK)
        embedded_BSd = self.mlp(moves_BTK4.to(self.ln.weight.dtype)).flatten(1, 2)
        moved_BS = labels_BTK.where(has_moved_BTK, -1).flatten(1)
        own_BNS = (labels_BN[..., None] == moved_BS[:, None]) & (labels_BN >= 0)[..., None]
        weights_BNS = own_BNS / own_BNS.sum(dim=-1, keepdim=True).clamp(min=1)
        embedded_BNd = self.ln(weights_BNS.to(embedded_BSd.dtype) @ embedded_BSd)
        return embedded_BNd.where(own_BNS.any(dim=-1, keepdim=True), 0)


def box_moves(boxes_BTK4: torch.Tensor, labels_BTK: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """How fast each box moves, in parts of the frame a clip: the difference to the mean of the boxes of its label in
    the frame before, times T, since frames are the middles of T equal parts (:func:`stoa.data.sampling.sample_times`).
    So it is the same for more or fewer frames of a clip.

    Args:
        boxes_BTK4: fp32, in half precision differences would be mostly rounding; finite where there is a box.
        labels_BTK: int64, -1 where there is no box.

    Returns:
        moves (B, T, K, 4) fp32, also under autocast, and which boxes (B, T, K) have one; the others' are zero.
    """
    now_BTK, before_BTK = labels_BTK[:, 1:], labels_BTK[:, :-1]
    same_BTKK = (now_BTK[..., :, None] == before_BTK[..., None, :]) & (now_BTK >= 0)[..., None]
    count_BTK1 = same_BTKK.sum(dim=-1, keepdim=True)
    boxes_BTK4 = boxes_BTK4.where((labels_BTK >= 0)[..., None], 0)
    # A sum, not a product of matrices, which autocast would round.
    mean_BTK4 = (same_BTKK[..., None] * boxes_BTK4[:, :-1, None]).sum(dim=-2) / count_BTK1.clamp(min=1)
    moves_BTK4 = ((boxes_BTK4[:, 1:] - mean_BTK4) * labels_BTK.shape[1]).where(count_BTK1 > 0, 0)
    has_moved_BTK = torch.cat([torch.zeros_like(labels_BTK[:, :1], dtype=torch.bool), count_BTK1[..., 0] > 0], dim=1)
    return torch.cat([torch.zeros_like(boxes_BTK4[:, :1]), moves_BTK4], dim=1), has_moved_BTK
