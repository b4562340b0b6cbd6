"""Question answering as a choice among the answers of the training set (STOA-VLP, open-ended QA).

Shape legend: B questions, A answers.
"""

from __future__ import annotations

import torch
from torch.nn import functional as F

from stoa.batch import VideoTextBatch
from stoa.models.fusion import FusionPass
from stoa.models.layers import at_least_fp32
from stoa.models.video_language import TextFeatures, VideoFeatures, VideoLanguageModel
from stoa.objectives.gather import global_mean
from stoa.objectives.masks import bidirectional_mask


def answer_pass(
    model: VideoLanguageModel, video: VideoFeatures, text: TextFeatures, text_mask_BL: torch.Tensor
) -> FusionPass:
    """Clip and question, read at ``v_o`` and ``t_o``."""
    seen = bidirectional_mask(text_mask_BL, video.valid_BG)
    text_BLd = model.grounded(text.tokens_BLd, model.meanings(video.tokens_BGd, video.valid_BG))
    return model.pair_pass(video.tokens_BGd, text_BLd, seen, text_mask_BL)


def answer_logits(model: VideoLanguageModel, rows_B2w: torch.Tensor) -> torch.Tensor:
    """Logits (B, A) of the answers, of the rows of :func:`answer_pass`."""
    return model.answer_head(rows_B2w.flatten(1))


def answer_loss(
    model: VideoLanguageModel, batch: VideoTextBatch, rows_B2w: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Cross-entropy over the answers; a question whose answer is none of them does not count.

    Returns:
        (loss, accuracy); averaged over ranks, each is the mean over all questions that count.
    """
    logits_BA = at_least_fp32(answer_logits(model, rows_B2w))
    valid_B = batch.target_B >= 0
    losses_B = F.cross_entropy(logits_BA, batch.target_B.where(valid_B, -100), ignore_index=-100, reduction="none")
    correct_B = valid_B & (logits_BA.argmax(dim=1) == batch.target_B)
    count = valid_B.sum()
    return global_mean(losses_B.sum(), count), global_mean(correct_B.sum().to(losses_B.dtype), count).detach()
