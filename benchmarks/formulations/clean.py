"""The training step as one would write it in PyTorch, without operators of one's own."""

from __future__ import annotations

import torch

from formulations.modules import AlignedObjects, MaskedCopies, fused_alone
from formulations.separate import SeparateObjective
from stoa.batch import VideoTextBatch
from stoa.models.video_language import TextFeatures, VideoFeatures
from stoa.objectives import plm
from stoa.objectives.total import TrainingObjective


class CleanObjective(SeparateObjective):
    """The same losses and gradients as ours.

    Attention is PyTorch's, with masks. PLM is one pass. Boxes are pooled by torchvision's RoIAlign and ``amax``, then
    pass the MLP. Each trajectory is a masked copy of the box sequence, as the paper describes it. The language head
    sees the supervised rows alone. For the rest see :class:`SeparateObjective`.
    """

    def __init__(self, objective: TrainingObjective) -> None:
        super().__init__(objective)
        self.model.objects = AlignedObjects(self.model.objects)
        self.model.trajectories = MaskedCopies(self.model.trajectories)

    def plm_loss(
        self, batch: VideoTextBatch, video: VideoFeatures, text: TextFeatures, uniform_B1: torch.Tensor
    ) -> torch.Tensor:
        prefix_B = plm.prefixes(batch, uniform_B1)
        rows_BQw = fused_alone(self.model, plm.plm_pass(self.model, batch, video, text, prefix_B))
        return plm.plm_loss(self.model, batch, rows_BQw, prefix_B, self.model.language_table())
