"""Which trajectory is which noun, which action token is which verb.

Shape legend: B clips, R rows (trajectories or action tokens), C columns (words and the null), L text tokens,
S boxes of a clip, d joint width.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch.nn import functional as F

from stoa.batch import VideoTextBatch
from stoa.models.grounding import MATCH_TEMPERATURE
from stoa.models.layers import at_least_fp32, exact_product
from stoa.models.objects import usable_boxes
from stoa.models.video_language import end_positions
from stoa.objectives.config import NullToken
from stoa.ops import batched_assignment

_HASH_FACTOR = 0x2545F4914F6CDD1D  # any large odd number


class Columns(NamedTuple):
    """What a clip's rows can be matched to: its words in order, then the null.

    ``position_BC`` is the text position of each column (int64); the first ``count_B`` columns are real, the last of
    these is the null.
    """

    position_BC: torch.Tensor
    count_B: torch.Tensor

    @property
    def valid_BC(self) -> torch.Tensor:
        return torch.arange(self.position_BC.shape[1], device=self.count_B.device) < self.count_B[:, None]

    @property
    def word_BC(self) -> torch.Tensor:
        """Of those that are real all but the null."""
        return torch.arange(self.position_BC.shape[1], device=self.count_B.device) < self.count_B[:, None] - 1


class Match(NamedTuple):
    """Column of each row, -1 without one (B, R), and which rows take part (B, R) bool."""

    column_BR: torch.Tensor
    row_valid_BR: torch.Tensor

    @property
    def matched_BR(self) -> torch.Tensor:
        return self.column_BR >= 0


def null_positions(text_mask_BL: torch.Tensor, null_token: NullToken) -> torch.Tensor:
    """Position (B,) of the token that stands for "no word"."""
    end_B = end_positions(text_mask_BL)
    return end_B if null_token == "end" else torch.zeros_like(end_B)


def word_columns(word_BL: torch.Tensor, null_B: torch.Tensor) -> Columns:
    """Compact the words of each clip, and its null, to the front, on the device.

    Args:
        word_BL: bool, True at the token that stands for a word; never at the null's.
        null_B: position of the token that stands for "no word".
    """
    key_BL = torch.where(word_BL, 0, 2).scatter(1, null_B[:, None], 1)
    # Start and end are no words, which leaves at most L - 2 of them.
    position_BC = key_BL.argsort(dim=1, stable=True)[:, : max(1, word_BL.shape[1] - 1)]
    return Columns(position_BC, word_BL.sum(dim=1) + 1)


def word_keys(tokens_BL: torch.Tensor, piece_BL: torch.Tensor, end_BL: torch.Tensor) -> torch.Tensor:
    """A hash (B, L) of the pieces of the word that ends at a token, int64, equal for the same word; 0 where none does.

    Args:
        tokens_BL: BPE ids.
        piece_BL: bool, True at every piece of a word.
        end_BL: bool, True at the last piece of each.
    """
    length = tokens_BL.shape[1]
    starts_BL = piece_BL.clone()
    starts_BL[:, 1:] &= ~piece_BL[:, :-1] | end_BL[:, :-1]
    word_BL = starts_BL.cumsum(dim=1).where(piece_BL, 0)
    position_L = torch.arange(length, device=tokens_BL.device)
    # A polynomial of the pieces from the last to the first, modulo 2^64.
    power_L = torch.full_like(position_L, _HASH_FACTOR).cumprod(dim=0)
    power_LL = power_L[(position_L[:, None] - position_L).clamp(min=0)]
    own_BLL = (word_BL[:, :, None] == word_BL[:, None, :]) & (position_L <= position_L[:, None])
    key_BL = (own_BLL * power_LL * (tokens_BL + 1)[:, None, :]).sum(dim=2)
    return key_BL.where(piece_BL & end_BL, 0)


def at_columns(text_BLd: torch.Tensor, columns: Columns) -> torch.Tensor:
    """Text tokens at the columns, (B, C, d)."""
    return text_BLd.gather(1, columns.position_BC[..., None].expand(-1, -1, text_BLd.shape[-1]))


def match_probabilities(rows_BRd: torch.Tensor, words_BCd: torch.Tensor, columns: Columns) -> torch.Tensor:
    """``softmax(cos / 0.1)`` over the columns of each row's clip, (B, R, C), at least fp32."""
    rows_BRd, words_BCd = (F.normalize(at_least_fp32(x), dim=-1) for x in (rows_BRd, words_BCd))
    cosine_BRC = exact_product(rows_BRd, words_BCd.transpose(1, 2)).masked_fill(~columns.valid_BC[:, None], -torch.inf)
    return (cosine_BRC / MATCH_TEMPERATURE).softmax(dim=-1)


@torch.no_grad()
def match_rows(rows_BRd: torch.Tensor, row_valid_BR: torch.Tensor, words_BCd: torch.Tensor, columns: Columns) -> Match:
    """The one-to-one match of highest total probability.

    Args:
        rows_BRd: valid rows first.
        row_valid_BR: bool.
        words_BCd: of :func:`at_columns`.
    """
    cost_BRC = -match_probabilities(rows_BRd, words_BCd, columns)
    column_BR, _ = batched_assignment(cost_BRC, row_valid_BR.sum(dim=1), columns.count_B)
    return Match(column_BR, row_valid_BR)


class MatchTruth(NamedTuple):
    """Counts over a batch: judged matches, how many of them are right, and how many chance would get right."""

    judged: torch.Tensor
    right: torch.Tensor
    by_chance: torch.Tensor


@torch.no_grad()
def judge_match(
    match: Match,
    columns: Columns,
    row_class_BR: torch.Tensor,
    noun_labels_BL: torch.Tensor,
    truth_known_B: torch.Tensor,
) -> MatchTruth:
    """Compare matches of trajectories to nouns with what the trajectories truly show.

    A match to a noun of known class is judged, in clips that know what their boxes show; it is right when that is the
    row's class. Chance is the mean over all
    one-to-one matches: any valid row is as likely for a noun as any other.

    Args:
        row_class_BR: of :func:`majority_class`.
        noun_labels_BL: of the batch.
        truth_known_B: bool, clips that know what their boxes show.

    Returns:
        per clip, (B,) each.
    """
    class_BC = noun_labels_BL.gather(1, columns.position_BC)
    known_BC = (class_BC >= 0) & columns.valid_BC & truth_known_B[:, None]
    agree_BRC = (row_class_BR[:, :, None] == class_BC[:, None, :]) & match.row_valid_BR[:, :, None]
    column_BR = match.column_BR.clamp(min=0)
    judged_BR = match.matched_BR & known_BC.gather(1, column_BR)
    right_BR = judged_BR & agree_BRC.gather(2, column_BR[..., None]).squeeze(-1)
    pairs_B = match.row_valid_BR.sum(dim=1) * known_BC.sum(dim=1)
    agreeing_B = (agree_BRC & known_BC[:, None]).sum(dim=(1, 2))
    judged_B = judged_BR.sum(dim=1).float()
    return MatchTruth(judged_B, right_BR.sum(dim=1).float(), judged_B * agreeing_B / pairs_B.clamp(min=1))


def truth_known(true_labels_BTK: torch.Tensor) -> torch.Tensor:
    """(B,) bool: clips with a box of which the data know what it shows."""
    return (true_labels_BTK >= 0).flatten(1).any(dim=1)


@torch.no_grad()
def majority_class(labels_BN: torch.Tensor, batch: VideoTextBatch) -> torch.Tensor:
    """The true class that the most boxes of each trajectory show (B, N), of equal ones the first; -1 for no object."""
    if not labels_BN.shape[1]:
        return labels_BN
    labels_BS = batch.labels_BTK.where(usable_boxes(batch.boxes_BTK4, batch.labels_BTK), -1).flatten(1)
    true_BS = batch.true_labels_BTK.flatten(1)
    member_BNS = (labels_BN[:, :, None] == labels_BS[:, None, :]) & (labels_BN >= 0)[:, :, None]
    same_BSS = (true_BS[:, :, None] == true_BS[:, None, :]).float()
    votes_BNS = (member_BNS.float() @ same_BSS).masked_fill(~member_BNS, 0)
    return true_BS.gather(1, votes_BNS.argmax(dim=-1)).where(member_BNS.any(dim=-1), -1)
