"""Cross-entropies between rows (trajectories or action tokens) and words of the global batch, for the forms ``nce`` and
``nce_both`` of ``align_loss``.

Shape legend: B clips on this rank, A clips of all ranks, R rows, C columns (words and the null) of a clip, X = A * C
columns of all clips, d joint width.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch.nn import functional as F

from stoa.models.grounding import MATCH_TEMPERATURE
from stoa.models.layers import at_least_fp32, exact_product
from stoa.objectives.gather import gather_rows_no_grad
from stoa.objectives.matching import Columns, Match
from stoa.objectives.vtc import own_pairs

_NEVER = -1e4  # a logit that is finite: of rows that are all missing it has a gradient


class Repeats(NamedTuple):
    """Which words of other clips are no negatives: those with the key of the own one (``word_keys`` of matching, 0 for
    a null), and all of a clip with the same video or caption (``same_pairs`` of VTC)."""

    key_BC: torch.Tensor
    same_BA: torch.Tensor


def rows_among_words(
    rows_BRd: torch.Tensor, words_BCd: torch.Tensor, match: Match, columns: Columns, repeats: Repeats
) -> torch.Tensor:
    """Cross-entropy (B, R) of ``cos / 0.1`` between a row's own column and those that it is not.

    For a row with a word these are the words of all clips of the global batch, but for the same word and the words of
    the same clip or caption elsewhere, and the null of its clip. Over the clip alone a row may be all that the other
    words of its clips are: the match agrees, and the loss is 0. A null says what its own caption leaves out, of which
    other captions may speak: it is no column of other clips, and a row with it is told from the words of its clip.

    A row without anything to tell it from has 0. Rows that are not matched have some finite value.
    """
    rows_BRd, words_BCd = F.normalize(rows_BRd, dim=-1), F.normalize(words_BCd, dim=-1)
    column_BR = match.column_BR.clamp(min=0)
    null_BR = (columns.count_B[:, None] - 1).expand_as(column_BR)
    has_null_BR = column_BR == null_BR
    cosine_BRC = exact_product(rows_BRd, words_BCd.transpose(1, 2))
    own_BR1, null_BR1 = (cosine_BRC.gather(2, chosen_BR[..., None]) for chosen_BR in (column_BR, null_BR))

    words_ACd, word_AC, key_AC = (gather_rows_no_grad(x) for x in (words_BCd, columns.word_BC, repeats.key_BC))
    own_BA = own_pairs(repeats.same_BA)
    key_BR = repeats.key_BC.gather(1, column_BR)
    of_word_BRAC = (key_AC != key_BR[..., None, None]) & (own_BA | ~repeats.same_BA)[:, None, :, None]
    of_null_BRAC = own_BA[:, None, :, None]
    negative_BRAC = word_AC & of_null_BRAC.where(has_null_BR[..., None, None], of_word_BRAC)

    others_BRX = exact_product(rows_BRd, words_ACd.flatten(0, 1).T).masked_fill(~negative_BRAC.flatten(2), -torch.inf)
    null_BR1 = null_BR1.masked_fill(has_null_BR[..., None], -torch.inf)
    logits = torch.cat([own_BR1, null_BR1, others_BRX], dim=2) / MATCH_TEMPERATURE
    return -logits.log_softmax(dim=2)[..., 0]


class AllRows(NamedTuple):
    """Rows of the clips of all ranks, with gradient, and which there are."""

    rows_ARd: torch.Tensor
    valid_AR: torch.Tensor


class WordLosses(NamedTuple):
    """Cross-entropy (B, C) of each word, 0 where it does not count, and which words count."""

    losses_BC: torch.Tensor
    counted_BC: torch.Tensor


def words_among_clips(all_rows: AllRows, words_BCd: torch.Tensor, columns: Columns, repeats: Repeats) -> WordLosses:
    """Cross-entropy of a word's own clip among those of the global batch; the logit of a clip is the logsumexp over its
    rows of ``cos / 0.1``. Left out are clips with the same video or caption, and those whose captions hold the word.

    It does not ask which row a word means, so it teaches before the match is right: what rows of all clips with a word
    have in common wins. A match that is wrong teaches itself.

    Source: contrast of bags of instances, MIL-NCE (Miech et al., arXiv 1912.06430).
    """
    rows_ARd, valid_AR = F.normalize(at_least_fp32(all_rows.rows_ARd), dim=-1), all_rows.valid_AR
    words_BCd = F.normalize(at_least_fp32(words_BCd), dim=-1)
    word_AC, key_AC = gather_rows_no_grad(columns.word_BC), gather_rows_no_grad(repeats.key_BC)
    own_BA = own_pairs(repeats.same_BA)
    cosine_BCAR = exact_product(words_BCd, rows_ARd.flatten(0, 1).T).unflatten(2, valid_AR.shape)
    score_BCA = (cosine_BCAR / MATCH_TEMPERATURE).masked_fill(~valid_AR, _NEVER).logsumexp(dim=3)

    says_BCA = ((repeats.key_BC[:, :, None, None] == key_AC) & word_AC).any(dim=3)
    left_out_BCA = (says_BCA | repeats.same_BA[:, None]) & ~own_BA[:, None]
    logs_BCA = score_BCA.masked_fill(left_out_BCA, -torch.inf).log_softmax(dim=2)
    losses_BC = -logs_BCA.masked_fill(~own_BA[:, None], 0).sum(dim=2)
    counted_BC = columns.word_BC & (own_BA & valid_AR.any(dim=1)).any(dim=1, keepdim=True)
    return WordLosses(losses_BC.where(counted_BC, 0), counted_BC)
