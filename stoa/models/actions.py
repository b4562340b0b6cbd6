"""Action tokens (STOA-VLP).

Shape legend: B clips, T frames, S tokens of a frame (the [CLS] and its patches), K boxes per frame, N trajectories,
M action tokens, h vision width, d joint width.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import nn

from stoa.models.clip import VisionTower
from stoa.models.cls_encoder import ClsEncoder
from stoa.models.config import ActionConfig
from stoa.models.layers import POSITION_SCALE, at_least_fp32, exact_product
from stoa.models.objects import Boxes


class Moves(NamedTuple):
    """What is added to the trajectories of a clip for what they do (B, N, d), zero where ``there_BN`` is not set."""

    said_BNd: torch.Tensor
    there_BN: torch.Tensor


class ActionEncoder(nn.Module):
    """Learned queries gather, frame by frame, what moves; an encoder over the frames makes a token of each."""

    def __init__(self, config: ActionConfig, vision: VisionTower, *, num_frames: int) -> None:
        super().__init__()
        scale = vision.width**-0.5
        self.queries = nn.Parameter(scale * torch.randn(config.num_tokens, vision.width))
        self.cls = nn.Parameter(scale * torch.randn(vision.width))
        self.frame_embedding = nn.Parameter(POSITION_SCALE * torch.randn(num_frames, 1, vision.width))
        self.ln_gathered = nn.LayerNorm(vision.width)
        self.encoder = ClsEncoder(vision, config.layers, "model.actions.layers")

    def forward(self, tokens_BTSh: torch.Tensor, boxes: Boxes | None) -> torch.Tensor:
        """Joint-space action tokens, (B, M, d)."""
        gathered_BTMh = gather_actions(self.queries, tokens_BTSh, boxes).to(tokens_BTSh.dtype)
        steps_BMTh = (self.ln_gathered(gathered_BTMh) + self.frame_embedding).transpose(1, 2)
        B, M, T, h = steps_BMTh.shape
        tokens = torch.cat([self.cls.expand(B * M, 1, h), steps_BMTh.reshape(B * M, T, h)], dim=1)
        return self.encoder(tokens, 1).view(B, M, -1)


class ActionMotion(nn.Module):
    """What is added to action tokens (B, M, d): what learned queries gather of what trajectories do. An addition to
    STOA-VLP, whose action tokens see patches, which do not say how anything moves."""

    def __init__(self, num_tokens: int, width: int) -> None:
        super().__init__()
        self.queries = nn.Parameter(width**-0.5 * torch.randn(num_tokens, width))

    def forward(self, moves: Moves) -> torch.Tensor:
        return gather_moves(self.queries, moves)


def gather_moves(queries_Md: torch.Tensor, moves: Moves) -> torch.Tensor:
    """``softmax(q D^T) D`` over the trajectories of a clip, (B, M, d); zero where it has none."""
    said_BNd = at_least_fp32(moves.said_BNd)
    scores_BNM = exact_product(said_BNd, at_least_fp32(queries_Md).T)
    # A clip without trajectories has all weights alike, of what is zero.
    lowest = torch.finfo(scores_BNM.dtype).min
    weights_BMN = scores_BNM.masked_fill(~moves.there_BN[..., None], lowest).softmax(dim=1).transpose(1, 2)
    return exact_product(weights_BMN, said_BNd).to(moves.said_BNd.dtype)


def gather_actions(queries_Mh: torch.Tensor, tokens_BTSh: torch.Tensor, boxes: Boxes | None) -> torch.Tensor:
    """``softmax(q F^T) F`` over the patches and the valid boxes of each frame, without scale or projection.

    STOA-VLP, equation 2. Unscaled products exceed fp16, so all of it is in fp32, also under autocast. The
    [CLS] that leads the tokens is masked.

    Returns:
        (B, T, M, h), at least fp32.
    """
    weights, tokens_BTSh = gathering_weights(queries_Mh, tokens_BTSh, boxes), at_least_fp32(tokens_BTSh)
    if boxes is None:
        return exact_product(weights, tokens_BTSh)
    S = tokens_BTSh.shape[2]
    objects_BTKh = at_least_fp32(boxes.features_BTKh)
    return exact_product(weights[..., :S], tokens_BTSh) + exact_product(weights[..., S:], objects_BTKh)


def gathering_weights(queries_Mh: torch.Tensor, tokens_BTSh: torch.Tensor, boxes: Boxes | None) -> torch.Tensor:
    """The ``softmax(q F^T)`` of :func:`gather_actions`: what each query takes of each frame.

    Returns:
        (B, T, M, S) or, with boxes, (B, T, M, S + K), at least fp32; they sum to 1, and that of the [CLS] is 0.
    """
    queries_Mh, tokens_BTSh = at_least_fp32(queries_Mh), at_least_fp32(tokens_BTSh)
    S = tokens_BTSh.shape[2]
    is_cls_S1 = torch.arange(S, device=tokens_BTSh.device)[:, None] == 0
    scores_BTSM = exact_product(tokens_BTSh, queries_Mh.T).masked_fill(is_cls_S1, -torch.inf)
    if boxes is None:
        return scores_BTSM.softmax(dim=2).transpose(2, 3)
    objects_BTKh = at_least_fp32(boxes.features_BTKh)
    scores_BTKM = exact_product(objects_BTKh, queries_Mh.T).masked_fill(~boxes.valid_BTK[..., None], -torch.inf)
    return torch.cat([scores_BTSM, scores_BTKM], dim=2).softmax(dim=2).transpose(2, 3)
