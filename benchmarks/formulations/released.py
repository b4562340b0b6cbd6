"""The training step in the formulation of the released code of STOA-VLP, written from a description of it.

Shape legend: B clips, G video-side tokens, L text tokens, S = G + L, Q = L - 1 predicted tokens, n boxes,
h vision width, w text width, V vocabulary of the language head.
"""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F

from formulations.modules import AlignedObjects, MaskedCopies
from formulations.separate import SeparateObjective
from stoa.batch import VideoTextBatch
from stoa.models.layers import at_least_fp32
from stoa.models.video_language import LanguageHead, TextFeatures, VideoFeatures
from stoa.objectives.masks import prefix_mask
from stoa.objectives.plm import draw_prefix
from stoa.objectives.total import TrainingObjective


class ReleasedObjective(SeparateObjective):
    """Six losses of the same batch, computed as the release does.

    As released:

    - PLM is a loop over the L - 1 predicted tokens. Each pass encodes the captions again, fuses all tokens, those not
      yet known being blanks, and has a product of the whole token table for the one row a clip that it reads. With
      those of the other losses that makes L + 2 text passes and L vocabulary products a step.
    - The language head multiplies its matrix by the token table before the rows: (w, w) by (w, V). The table is frozen.
    - An MLP without biases, with a ReLU after both layers, is applied to every bin of torchvision's RoIAlign, and the
      maximum follows.
    - Each trajectory is a masked copy of the box sequence, of which one layer is executed.
    - OTA and ASP encode the captions again.
    - See also :class:`SeparateObjective`.

    Kept as ours, so that a ratio shows the formulation alone: the towers and blocks and what their gradients reach (the
    release detaches the video and text tokens of some losses); the recipe's ``joint_last_blocks`` (2 in the release, 0
    in ``stoa``); the embeddings of boxes, the action attention, the matching head and the definitions of the losses;
    the attention of PyTorch, where the release keeps the scores; fp32. Its loops over the clips of a batch, its
    barriers and its other waits for the device are left out.

    Source: the repository whongzhong/STOA-VLP.
    """

    def __init__(self, objective: TrainingObjective) -> None:
        super().__init__(objective)
        model = self.model
        model.clip.token_embedding = nn.Embedding.from_pretrained(model.clip.token_embedding.weight.detach())
        model.objects = MlpOnBins(model.objects)
        model.trajectories = MaskedCopies(model.trajectories, layers=1)
        model.lm_head = MatrixFirstHead(model.lm_head)

    def plm_loss(
        self, batch: VideoTextBatch, video: VideoFeatures, text: TextFeatures, uniform_B1: torch.Tensor
    ) -> torch.Tensor:
        model, G, L = self.model, video.tokens_BGd.shape[1], batch.tokens_BL.shape[1]
        position_L = torch.arange(L, device=batch.tokens_BL.device)
        seen_BSS = prefix_mask(batch.text_mask_BL, torch.zeros_like(batch.prefix_B), video.valid_BG)
        logits = []
        for position in range(1, L):
            again = model.encode_text(batch.tokens_BL, batch.text_mask_BL)
            known_BLd = again.tokens_BLd * (position_L < position)[:, None]
            fused_BSw = model.fusion(video.tokens_BGd, known_BLd, seen_BSS)
            logits.append(at_least_fp32(model.language_logits(fused_BSw[:, G + position], model.language_table())))
        prefix_B = batch.prefix_B.where(batch.prefix_B > 0, draw_prefix(batch.text_mask_BL, uniform_B1[:, 0]))
        target_BQ = model.lm_head.targets(batch.tokens_BL[:, 1:])
        counts_BQ = batch.text_mask_BL[:, 1:] & (position_L[1:] >= prefix_B[:, None]) & (target_BQ >= 0)
        return F.cross_entropy(torch.stack(logits, dim=1)[counts_BQ], target_BQ[counts_BQ])

    @torch.no_grad()
    def words_to_match(self, batch: VideoTextBatch, text: TextFeatures) -> torch.Tensor:
        return self.model.encode_text(batch.tokens_BL, batch.text_mask_BL).tokens_BLd


class MlpOnBins(AlignedObjects):
    """The MLP of every bin comes before the maximum."""

    def pooled(self, bins_nhyx: torch.Tensor) -> torch.Tensor:
        first, _, second = self.source.mlp
        x = bins_nhyx.permute(0, 2, 3, 1).contiguous()
        for linear in (first, second):
            x = F.linear(x, linear.weight).relu()
        return x.amax(dim=(1, 2))


class MatrixFirstHead(nn.Module):
    """Logits by one matrix (w, V), which is made for every call."""

    def __init__(self, source: LanguageHead) -> None:
        super().__init__()
        self.table, self.targets = source.table, source.targets
        self.source = source

    def forward(self, rows_w: torch.Tensor, table_Vw: torch.Tensor) -> torch.Tensor:
        return rows_w @ (self.source.dense.weight.T @ table_Vw.T) + self.source.bias
