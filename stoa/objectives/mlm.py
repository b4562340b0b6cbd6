"""Masked language modelling (STOA-VLP, MLM).

Shape legend: B clips, L text tokens, Q masked slots, V vocabulary of the language head,
w text width, d joint width.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch.nn import functional as F

from stoa.batch import VideoTextBatch
from stoa.models.fusion import FusionPass
from stoa.models.layers import at_least_fp32
from stoa.models.video_language import VideoFeatures, VideoLanguageModel
from stoa.objectives.gather import global_mean
from stoa.objectives.masks import bidirectional_mask
from stoa.objectives.random import Stream

MASK_SHARE = 0.15


class Hidden(NamedTuple):
    """The words that are chosen of captions.

    Attributes:
        positions_BQ: int64, of the words.
        valid_BQ: bool, which of the slots a caption fills.
        hidden_BL: bool, the text tokens that the text tower does not get.
    """

    positions_BQ: torch.Tensor
    valid_BQ: torch.Tensor
    hidden_BL: torch.Tensor


def draws_of(batch: VideoTextBatch) -> dict[Stream, int]:
    """What is drawn of a caption: which words are chosen, and which of those are left in place."""
    return {Stream.MLM: 2 * batch.tokens_BL.shape[1]}


def num_masked(L: int) -> int:
    """Slots of a caption of ``L`` tokens (Q)."""
    return max(1, round(MASK_SHARE * (L - 2)))


def choose_masked(text_mask_BL: torch.Tensor, uniform_BL: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Choose 15% of the word tokens of each caption, at least one where there is a word.

    A word token is neither start, end nor padding. The number of slots Q is that of a full caption, so
    shapes are static.

    Returns:
        (positions (B, Q) int64, valid (B, Q) bool)
    """
    L = text_mask_BL.shape[1]
    words_BL = text_mask_BL.clone()
    words_BL[:, 0] = False
    words_BL[:, :-1] &= text_mask_BL[:, 1:]
    words_BL[:, -1] = False
    num_words_B = words_BL.sum(dim=1)
    quota_B = (MASK_SHARE * num_words_B).round().clamp(min=1).minimum(num_words_B)
    rank_BL = uniform_BL.masked_fill(~words_BL, torch.inf)
    positions_BQ = rank_BL.topk(num_masked(L), dim=1, largest=False).indices
    return positions_BQ, torch.arange(positions_BQ.shape[1], device=positions_BQ.device) < quota_B[:, None]


def hide_words(batch: VideoTextBatch, uniform: torch.Tensor, *, kept_share: float = 0.0) -> Hidden:
    """Choose the words to predict.

    A word is hidden at the input of the text tower, in a pass of its own: in a causal tower a word masked later is
    still known to the outputs after it.

    Args:
        uniform: draws (B, 2L) of :func:`draws_of`.
        kept_share: probability that a chosen word is left in place (BERT, section 3.1, which keeps 0.1 of them).
    """
    choice_BL, keep_BL = uniform.chunk(2, dim=1)
    positions_BQ, valid_BQ = choose_masked(batch.text_mask_BL, choice_BL)
    chosen_BL = torch.zeros_like(batch.text_mask_BL).scatter(1, positions_BQ, valid_BQ)
    return Hidden(positions_BQ, valid_BQ, chosen_BL & (keep_BL >= kept_share))


def mlm_pass(
    model: VideoLanguageModel,
    batch: VideoTextBatch,
    video: VideoFeatures,
    hidden_text_BLd: torch.Tensor,
    hidden: Hidden,
) -> FusionPass:
    """Captions with hidden words, read at those."""
    mask_BSS = bidirectional_mask(batch.text_mask_BL, video.valid_BG)
    text_BLd = model.grounded(hidden_text_BLd, model.meanings(video.tokens_BGd, video.valid_BG))
    return model.text_pass(video.tokens_BGd, text_BLd, mask_BSS, hidden.positions_BQ)


def mlm_loss(
    model: VideoLanguageModel, batch: VideoTextBatch, rows_BQw: torch.Tensor, hidden: Hidden, table_Vw: torch.Tensor
) -> torch.Tensor:
    """Cross-entropy of the chosen words, of the rows of :func:`mlm_pass`."""
    target_BQ = batch.tokens_BL.gather(1, hidden.positions_BQ)
    return language_loss(model, table_Vw, rows_BQw, target_BQ, hidden.valid_BQ)


def language_loss(
    model: VideoLanguageModel,
    table_Vw: torch.Tensor,
    rows_BQw: torch.Tensor,
    token_ids_BQ: torch.Tensor,
    valid_BQ: torch.Tensor,
) -> torch.Tensor:
    """Mean cross-entropy over the valid rows of all ranks; ids outside the head's vocabulary do not count."""
    losses_BQ, valid_BQ = word_losses(model, table_Vw, rows_BQw, token_ids_BQ, valid_BQ)
    return global_mean(losses_BQ.sum(), valid_BQ.sum())


def word_losses(
    model: VideoLanguageModel,
    table_Vw: torch.Tensor,
    rows_BQw: torch.Tensor,
    token_ids_BQ: torch.Tensor,
    valid_BQ: torch.Tensor,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Cross-entropy (B, Q) of each row, at least fp32 and 0 where it does not count, and which rows count (B, Q): the
    valid ones whose id is in the head's vocabulary."""
    logits = at_least_fp32(model.language_logits(rows_BQw, table_Vw)).flatten(0, 1)
    target_BQ = model.lm_head.targets(token_ids_BQ)
    valid_BQ = valid_BQ & (target_BQ >= 0)
    target = target_BQ.where(valid_BQ, -100).flatten()
    losses = F.cross_entropy(logits, target, ignore_index=-100, reduction="none")
    return losses.view(valid_BQ.shape), valid_BQ
