"""Object features and the trajectories they form (STOA-VLP).

Shape legend: B clips, T frames, F = B * T, P patches, K boxes per frame, N trajectories, S = T * K boxes of a clip,
h vision width, d joint width.
"""

from __future__ import annotations

from functools import partial
from typing import NamedTuple

import torch
from torch import nn

from stoa.batch import VideoTextBatch
from stoa.models.clip import VisionTower
from stoa.models.cls_encoder import ClsEncoder
from stoa.models.config import ObjectConfig
from stoa.models.layers import POSITION_SCALE, at_least_fp32, coordinate_mlp
from stoa.ops import roi_align_max, trajectory_attention


class Boxes(NamedTuple):
    """The object features of a clip: (B, T, K, h), exactly zero where ``valid_BTK`` is not set, and the patch tokens
    that they are made of, pooled, (B, T, K, h), zero there too."""

    features_BTKh: torch.Tensor
    valid_BTK: torch.Tensor
    pooled_BTKh: torch.Tensor


class Trajectories(NamedTuple):
    """Joint-space trajectory tokens (B, N, d) and the label of each, -1 where a clip has fewer; those stand last."""

    tokens_BNd: torch.Tensor
    labels_BN: torch.Tensor


class ObjectEncoder(nn.Module):
    """``MLP(MaxPool(RoIAlign(z, box)))`` plus embeddings of box, frame and slot (STOA-VLP).

    The paper pools before the MLP, and so does this. With ``residual`` the MLP's output is added to what it gets.
    """

    def __init__(self, config: ObjectConfig, *, width: int, grid_hw: tuple[int, int], num_frames: int) -> None:
        super().__init__()
        self.config, self.grid_hw = config, grid_hw
        self.mlp = nn.Sequential(nn.Linear(width, width // 2), nn.GELU(), nn.Linear(width // 2, width))
        # They lie in [0, 1]: with the default weights all boxes look the same.
        self.box_mlp = coordinate_mlp(width, weight_std=3.0, most_bias=3.0)
        self.ln_features = nn.Identity() if config.residual else nn.LayerNorm(width)
        self.ln_box = nn.LayerNorm(width)
        self.frame_embedding = nn.Parameter(POSITION_SCALE * torch.randn(num_frames, 1, width))
        self.slot_embedding = nn.Parameter(0.01 * torch.randn(config.max_boxes, width))
        if config.residual:
            last = self.mlp[-1]
            assert isinstance(last, nn.Linear)
            nn.init.zeros_(last.weight)
            nn.init.zeros_(last.bias)
            nn.init.constant_(self.ln_box.weight, POSITION_SCALE)

    def forward(self, patches_FPh: torch.Tensor, batch: VideoTextBatch) -> Boxes:
        B, T, K, _ = batch.boxes_BTK4.shape
        valid_BTK = usable_boxes(batch.boxes_BTK4, batch.labels_BTK)
        pooled_FKh, _ = roi_align_max(
            patches_FPh, batch.boxes_BTK4.flatten(0, 1), valid_BTK.flatten(0, 1), grid_hw=self.grid_hw
        )
        boxes_BTK4 = batch.boxes_BTK4.where(valid_BTK[..., None], 0)
        features_FKh = self.ln_features(self.mlp(pooled_FKh))
        if self.config.residual:
            features_FKh = pooled_FKh + features_FKh
        features_BTKh = features_FKh.view(B, T, K, -1)
        features_BTKh = features_BTKh + self.ln_box(self.box_mlp(boxes_BTK4.to(patches_FPh.dtype)))
        features_BTKh = features_BTKh + self.frame_embedding + self.slot_embedding
        return Boxes(features_BTKh.where(valid_BTK[..., None], 0), valid_BTK, pooled_FKh.view(B, T, K, -1))


class TrajectoryEncoder(nn.Module):
    """All trajectories of a clip in one sequence of N [CLS] and T * K boxes; a token sees those of its label.

    A box has one label, so this equals N masked copies of the box sequence with a [CLS] each.
    """

    def __init__(self, config: ObjectConfig, vision: VisionTower) -> None:
        super().__init__()
        self.num_trajectories = config.num_trajectories
        self.cls = nn.Parameter(vision.width**-0.5 * torch.randn(vision.width))
        self.encoder = ClsEncoder(vision, config.layers, "model.objects.layers")

    def forward(
        self,
        boxes: Boxes,
        labels_BTK: torch.Tensor,
        scores_BTK: torch.Tensor,
        frames_Bh: torch.Tensor | None = None,
    ) -> Trajectories:
        """
        Args:
            boxes, labels_BTK, scores_BTK: of the clips.
            frames_Bh: what the [CLS] begins with besides.
        """
        labels_BS = labels_BTK.where(boxes.valid_BTK, -1).flatten(1)
        labels_BN = top_labels(labels_BS, scores_BTK.flatten(1), self.num_trajectories)
        cls_BNh = self.first_tokens(labels_BN, frames_Bh)
        tokens = torch.cat([cls_BNh, boxes.features_BTKh.flatten(1, 2)], dim=1)
        attend = partial(_within_labels, torch.cat([labels_BN, labels_BS], dim=1))
        tokens_BNd = self.encoder(tokens, self.num_trajectories, attend)
        return Trajectories(tokens_BNd.where((labels_BN >= 0)[..., None], 0), labels_BN)

    def first_tokens(self, labels_BN: torch.Tensor, frames_Bh: torch.Tensor | None) -> torch.Tensor:
        """The [CLS] of each trajectory, (B, N, h)."""
        cls_BNh = self.cls.expand(*labels_BN.shape, -1)
        return cls_BNh if frames_Bh is None else cls_BNh + frames_Bh[:, None]


def usable_boxes(boxes_BTK4: torch.Tensor, labels_BTK: torch.Tensor) -> torch.Tensor:
    """(B, T, K) bool: slots that hold a box with an extent."""
    x1, y1, x2, y2 = boxes_BTK4.unbind(-1)
    return (labels_BTK >= 0) & boxes_BTK4.isfinite().all(dim=-1) & (x2 > x1) & (y2 > y1)


def top_labels(labels_BS: torch.Tensor, scores_BS: torch.Tensor, num_trajectories: int) -> torch.Tensor:
    """The labels of highest summed score, best first, ties to the lower label; -1 pads.

    Args:
        labels_BS: int64, -1 where there is no box.
        scores_BS: confidences.
        num_trajectories: N.

    Returns:
        (B, N) int64.
    """
    S = labels_BS.shape[1]
    same_BSS = labels_BS[:, :, None] == labels_BS[:, None, :]
    sums_BS = at_least_fp32(scores_BS)[:, None, :].where(same_BSS, 0).sum(dim=-1)  # in fixed order: deterministic
    earlier_SS = torch.ones(S, S, dtype=torch.bool, device=labels_BS.device).tril(-1)
    first_BS = (labels_BS >= 0) & ~(same_BSS & earlier_SS).any(dim=-1)
    by_label_BS = labels_BS.argsort(dim=1, stable=True)
    keys_BS = sums_BS.masked_fill(~first_BS, -torch.inf).gather(1, by_label_BS)
    best_BS = by_label_BS.gather(1, keys_BS.argsort(dim=1, descending=True, stable=True))
    chosen_BS = labels_BS.where(first_BS, -1).gather(1, best_BS)
    return nn.functional.pad(chosen_BS, (0, max(0, num_trajectories - S)), value=-1)[:, :num_trajectories]


def _within_labels(labels_BS: torch.Tensor, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    """The queries are the first tokens of the sequence, or all."""
    return trajectory_attention(q, k, v, labels_BS, labels_BS[:, : q.shape[2]])
