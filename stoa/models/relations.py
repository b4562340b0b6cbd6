"""What trajectories do to each other, an addition to STOA-VLP.

Shape legend: B clips, N trajectories, d joint width.
"""

from __future__ import annotations

import torch
from torch import nn

from stoa.models.layers import coordinate_mlp
from stoa.models.motion import MOTION_SCALE, Lines

PAIR_FEATURES = 5
STRAY_GAIN = 4.0
"""Of how far boxes stray from their lines, which is a few hundredths of the frame where distances are tenths."""

_NEAREST = 1e-3
"""Closer than so, in parts of the frame, two trajectories have no direction from one to the other."""


class RelationEncoder(nn.Module):
    """An embedding of how each trajectory goes with respect to others: of each pair by itself, and of those with the
    other ones the maximum (Santoro et al. 2017, equation 1, has the sum).

    It is added to the token where motion is, for the same reason.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.mlp = coordinate_mlp(width, weight_std=2.5, most_bias=1.0, coordinates=PAIR_FEATURES)
        self.ln = nn.LayerNorm(width)
        nn.init.constant_(self.ln.weight, MOTION_SCALE)

    def forward(self, lines: Lines, labels_BN: torch.Tensor) -> torch.Tensor:
        """Embed relations.

        Args:
            lines: that the trajectories follow.
            labels_BN: int64, the label of each trajectory, -1 where there is none.

        Returns:
            (B, N, d), zero for a trajectory that has no other one beside it.
        """
        there_BN = labels_BN >= 0
        others_NN = ~torch.eye(labels_BN.shape[1], dtype=torch.bool, device=labels_BN.device)
        paired_BNN = there_BN[:, :, None] & there_BN[:, None] & others_NN
        of_pairs = self.mlp(pair_features(lines).to(self.ln.weight.dtype))
        lowest = torch.finfo(of_pairs.dtype).min
        most_BNd = of_pairs.masked_fill(~paired_BNN[..., None], lowest).amax(dim=2)
        has_other_BN1 = paired_BNN.any(dim=2)[..., None]
        return self.ln(most_BNd.where(has_other_BN1, 0)).where(has_other_BN1, 0)


def pair_features(lines: Lines) -> torch.Tensor:
    """Of one trajectory (N) and another one (N), the same wherever in the frame they are and however they are turned.

    Returns:
        (B, N, N, 5) fp32: how fast the first goes towards the other one, how fast that goes away from the first, both
        in parts of the frame a clip; how far apart they are at their mean times; how far the boxes of each stray from
        its line. A trajectory in one frame stands still.
    """
    centres_BN2, speeds_BN2, strays_BN2 = (
        values.unflatten(-1, (2, 2)).mean(dim=-2) for values in (lines.centres_BN4, lines.slopes_BN4, lines.strays_BN4)
    )
    offset_BNN2 = centres_BN2[:, None] - centres_BN2[:, :, None]
    distance_BNN = offset_BNN2.square().sum(dim=-1).clamp(min=_NEAREST**2).sqrt()
    way_BNN2 = offset_BNN2 / distance_BNN[..., None]
    approach_BNN = (speeds_BN2[:, :, None] * way_BNN2).sum(dim=-1)
    flight_BNN = (speeds_BN2[:, None] * way_BNN2).sum(dim=-1)
    stray_BN = STRAY_GAIN * strays_BN2.norm(dim=-1)
    own_BNN, other_BNN = torch.broadcast_tensors(stray_BN[:, :, None], stray_BN[:, None])
    return torch.stack([approach_BNN, flight_BNN, distance_BNN, own_BNN, other_BNN], dim=-1)
