"""Parts of the model without what makes ours fast, around the very parameters of ours.

Shape legend: B clips, T frames, F = B * T, P patches, K boxes per frame, S = T * K boxes of a clip, N trajectories,
R rows (trajectories or action tokens), C columns (words and the null), h vision width, d joint width, w text width.
"""

from __future__ import annotations

import copy

import torch
from scipy.optimize import linear_sum_assignment
from torch import nn
from torchvision.ops import roi_align

from stoa.batch import VideoTextBatch
from stoa.models.cls_encoder import ClsEncoder
from stoa.models.fusion import FusionPass
from stoa.models.layers import Attend, Block, QuickGelu, full, masked
from stoa.models.objects import Boxes, ObjectEncoder, Trajectories, TrajectoryEncoder, top_labels, usable_boxes
from stoa.models.video_language import VideoLanguageModel
from stoa.objectives.matching import Columns, Match, match_probabilities


def sharing_parameters(model: VideoLanguageModel) -> VideoLanguageModel:
    """A copy whose parameters and buffers are those of the model itself, so that parts of it can be replaced. Its
    QuickGELU is composed of PyTorch's operators."""
    shared = copy.deepcopy(model, {id(tensor): tensor for tensor in (*model.parameters(), *model.buffers())})
    for module in shared.modules():
        if isinstance(module, Block) and isinstance(module.mlp.gelu, QuickGelu):
            module.mlp.gelu = ComposedQuickGelu()
    return shared


class ComposedQuickGelu(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * torch.sigmoid(1.702 * x)


class AlignedObjects(nn.Module):
    """torchvision's RoIAlign writes all bins; their maximum passes the MLP."""

    def __init__(self, source: ObjectEncoder) -> None:
        super().__init__()
        self.source = source

    def forward(self, patches_FPh: torch.Tensor, batch: VideoTextBatch) -> Boxes:
        own = self.source
        valid_BTK = usable_boxes(batch.boxes_BTK4, batch.labels_BTK)
        boxes_BTK4 = batch.boxes_BTK4.where(valid_BTK[..., None], 0).to(patches_FPh.dtype)
        maps_Fhyx = patches_FPh.transpose(1, 2).unflatten(-1, own.grid_hw)
        rows, columns = own.grid_hw
        corners = boxes_BTK4.flatten(0, 1) * boxes_BTK4.new_tensor([columns, rows, columns, rows])
        bins_nhyx = roi_align(maps_Fhyx, list(corners), own.grid_hw, 1.0, sampling_ratio=-1, aligned=True)
        pooled_BTKh = bins_nhyx.flatten(2).amax(dim=-1).view(*valid_BTK.shape, -1).where(valid_BTK[..., None], 0)
        features_BTKh = own.ln_features(self.pooled(bins_nhyx)).view(*valid_BTK.shape, -1)
        if own.config.residual:
            features_BTKh = features_BTKh + pooled_BTKh
        features_BTKh = features_BTKh + own.ln_box(own.box_mlp(boxes_BTK4))
        features_BTKh = features_BTKh + own.frame_embedding + own.slot_embedding
        return Boxes(features_BTKh.where(valid_BTK[..., None], 0), valid_BTK, pooled_BTKh)

    def pooled(self, bins_nhyx: torch.Tensor) -> torch.Tensor:
        """(n, h) of the bins (n, h, y, x) of n boxes."""
        return self.source.mlp(bins_nhyx.amax(dim=(2, 3)))


class MaskedCopies(nn.Module):
    """Each trajectory is a masked copy of all boxes of the clip, behind a [CLS]; every row passes every layer.

    Args:
        source: the encoder.
        layers: how many of its layers run, the first; default all.
    """

    def __init__(self, source: TrajectoryEncoder, layers: int | None = None) -> None:
        super().__init__()
        self.source = source
        self.encoder = WholeSequences(source.encoder, layers)

    def forward(
        self,
        boxes: Boxes,
        labels_BTK: torch.Tensor,
        scores_BTK: torch.Tensor,
        frames_Bh: torch.Tensor | None = None,
    ) -> Trajectories:
        labels_BS = labels_BTK.where(boxes.valid_BTK, -1).flatten(1)
        labels_BN = top_labels(labels_BS, scores_BTK.flatten(1), self.source.num_trajectories)
        exists_BN1 = (labels_BN >= 0)[..., None]
        own_BNS = (labels_BN[:, :, None] == labels_BS[:, None, :]) & exists_BN1
        seen = torch.cat([torch.ones_like(exists_BN1), own_BNS], dim=2).flatten(0, 1)
        features_BSh = boxes.features_BTKh.flatten(1, 2)
        cls = self.source.first_tokens(labels_BN, frames_Bh).flatten(0, 1)[:, None]
        copies = torch.cat([cls, features_BSh.repeat_interleave(labels_BN.shape[1], dim=0)], dim=1)
        tokens_BNd = self.encoder(copies, 1, masked(seen[:, None, None])).view(*labels_BN.shape, -1)
        return Trajectories(tokens_BNd.where(exists_BN1, 0), labels_BN)


class WholeSequences(nn.Module):
    """Every row passes every layer, although the [CLS] rows alone are wanted of the last."""

    def __init__(self, source: ClsEncoder, layers: int | None = None) -> None:
        super().__init__()
        self.source, self.layers = source, layers

    def forward(self, x_BSh: torch.Tensor, num_cls: int, attend: Attend = full) -> torch.Tensor:
        for block in self.source.blocks[: self.layers]:
            x_BSh = block(x_BSh, attend)
        return self.source.ln_post(x_BSh[:, :num_cls]) @ self.source.proj


def fused_alone(model: VideoLanguageModel, one: FusionPass) -> torch.Tensor:
    """The wanted rows (N, Q, w) of a pass by itself, all rows of which pass every layer."""
    fused_NSw = model.fusion(one.video_NGd, one.text_NLd, one.mask_NSS, None, one.positions_L)
    return fused_NSw.gather(1, one.rows_NQ[..., None].expand(-1, -1, fused_NSw.shape[-1]))


@torch.no_grad()
def match_by_scipy(
    rows_BRd: torch.Tensor, row_valid_BR: torch.Tensor, words_BCd: torch.Tensor, columns: Columns
) -> Match:
    """The one-to-one match of highest total probability, clip by clip on the host."""
    probabilities_BRC = match_probabilities(rows_BRd, words_BCd, columns)
    column_BR = torch.full_like(row_valid_BR, -1, dtype=torch.int64)
    for clip, (num_rows, num_columns) in enumerate(zip(row_valid_BR.sum(dim=1), columns.count_B, strict=True)):
        problem = probabilities_BRC[clip, : int(num_rows), : int(num_columns)].cpu().numpy()
        row, column = (torch.from_numpy(x).to(column_BR.device) for x in linear_sum_assignment(problem, maximize=True))
        column_BR[clip, row] = column
    return Match(column_BR, row_valid_BR)
