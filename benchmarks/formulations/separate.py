"""What the formulations have in common: the six losses one after the other, each with passes of its own.

Shape legend: B clips, L text tokens, d joint width.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping

import torch
from torch import nn

from formulations.modules import WholeSequences, fused_alone, match_by_scipy, sharing_parameters
from stoa.batch import VideoTextBatch
from stoa.models.fusion import FusionPass
from stoa.models.video_language import TextFeatures, VideoFeatures
from stoa.objectives import mlm, plm, vtm
from stoa.objectives.alignment import alignment_loss
from stoa.objectives.all_clips import gather_clips
from stoa.objectives.config import ObjectivesConfig
from stoa.objectives.matching import at_columns, null_positions, word_columns
from stoa.objectives.pairs import match_pass
from stoa.objectives.random import Stream, uniform
from stoa.objectives.total import TrainingObjective
from stoa.objectives.vtc import similarities, vtc_loss


class SeparateObjective(nn.Module, ABC):
    """Batch in, sum of the six losses out, as of :class:`TrainingObjective`, with the same parameters and draws.

    The towers, the blocks, the masks and the losses of given rows are ours. Other than there

    - the captions and those with hidden words pass the text tower one after the other, and VTM, MLM and PLM the fusion
      encoder;
    - all rows of a sequence pass the last layer of every encoder;
    - trajectories and action tokens are matched to words clip by clip, by SciPy on the host;
    - QuickGELU is composed of PyTorch's operators;
    - nothing is computed for the log but what comes with a loss.

    Args:
        objective: ours, of one process and on its device.

    Raises:
        ValueError: its losses have weights or forms other than the defaults, or its model has a graph, grounds words or
            matches by the likelihood.
    """

    def __init__(self, objective: TrainingObjective) -> None:
        super().__init__()
        config = objective.model.config
        others = "graph" in config.group_sizes or config.grounded_groups or config.match_by != "ends"
        if objective.config != ObjectivesConfig() or others:
            raise ValueError(
                "objective has other losses than the recipe stoa; another formulation takes objectives with their "
                "default weights and forms, and a model without a graph, without grounding, that matches by the ends"
            )
        self.seed = objective.seed
        self.model = sharing_parameters(objective.model)
        self.model.actions.encoder = WholeSequences(self.model.actions.encoder)

    @abstractmethod
    def plm_loss(
        self, batch: VideoTextBatch, video: VideoFeatures, text: TextFeatures, uniform_B1: torch.Tensor
    ) -> torch.Tensor:
        """Of the draws of :func:`stoa.objectives.plm.draws_of`."""

    def words_to_match(self, batch: VideoTextBatch, text: TextFeatures) -> torch.Tensor:
        """Text tokens (B, L, d), without gradient, that OTA and ASP match to."""
        return text.tokens_BLd.detach()

    def forward(self, batch: VideoTextBatch, step: int) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """(total, the losses); see :meth:`TrainingObjective.forward`."""
        sizes = vtm.draws_of(batch) | mlm.draws_of(batch) | plm.draws_of(batch)
        draws = uniform(self.seed, step, batch.position_B, sizes)
        video = self.model.encode_video(batch)
        text = self.model.encode_text(batch.tokens_BL, batch.text_mask_BL)
        losses = {
            **self._contrast_and_match(batch, video, text, draws),
            "mlm": self._mlm_loss(batch, video, draws[Stream.MLM]),
            "plm": self.plm_loss(batch, video, text, draws[Stream.PLM]),
            **self._alignment_losses(batch, video, self.words_to_match(batch, text)),
        }
        return torch.stack(list(losses.values())).sum(), {name: loss.detach() for name, loss in losses.items()}

    def _contrast_and_match(
        self, batch: VideoTextBatch, video: VideoFeatures, text: TextFeatures, draws: Mapping[Stream, torch.Tensor]
    ) -> dict[str, torch.Tensor]:
        model = self.model
        scores = similarities(
            video.pooled_Bd, text.pooled_Bd, model.clip.logit_scale, batch.clip_keys_B, batch.caption_keys_B
        )
        pairs = vtm.draw_pairs(batch, video, gather_clips(video), text, scores, draws)
        asked = match_pass(model, pairs.asked)
        assert isinstance(asked, FusionPass), "the papers' methods match by the ends"
        return {"vtc": vtc_loss(scores), "vtm": vtm.vtm_loss(model, fused_alone(model, asked), pairs).loss}

    def _mlm_loss(self, batch: VideoTextBatch, video: VideoFeatures, uniform: torch.Tensor) -> torch.Tensor:
        model = self.model
        hidden = mlm.hide_words(batch, uniform)
        words_BLw = model.clip.token_embedding(batch.tokens_BL)
        text_BLd = model.clip.encode_text(torch.where(hidden.hidden_BL[..., None], model.mask_token, words_BLw))
        rows_BQw = fused_alone(model, mlm.mlm_pass(model, batch, video, text_BLd, hidden))
        return mlm.mlm_loss(model, batch, rows_BQw, hidden, model.language_table())

    def _alignment_losses(
        self, batch: VideoTextBatch, video: VideoFeatures, text_BLd: torch.Tensor
    ) -> dict[str, torch.Tensor]:
        model, end_B = self.model, null_positions(batch.text_mask_BL, "end")
        objects_BNd = model.word_head(model.group(video, "objects"))
        actions_BMd = model.verb_head(model.group(video, "actions"))
        exists_BN, exists_BM = video.trajectory_labels_BN >= 0, video.valid_BG.new_ones(actions_BMd.shape[:2])
        losses = {}
        for name, rows_BRd, exists_BR, word_BL in (
            ("ota", objects_BNd, exists_BN, batch.noun_mask_BL),
            ("asp", actions_BMd, exists_BM, batch.verb_mask_BL),
        ):
            columns = word_columns(word_BL & batch.word_end_BL, end_B)
            words_BCd = at_columns(text_BLd, columns)
            match = match_by_scipy(rows_BRd, exists_BR, words_BCd, columns)
            losses[name], _ = alignment_loss(rows_BRd, words_BCd, match, columns, "mse")
        return losses
