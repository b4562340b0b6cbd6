"""Video-text matching (STOA-VLP, VTM) with one hard negative each way.

Shape legend: B clips on this rank, A clips of all ranks, C clips that texts are asked about, N = 3B texts, G video-side
tokens, L text tokens, d joint width.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch.nn import functional as F

from stoa.batch import VideoTextBatch
from stoa.models.video_language import TextFeatures, VideoFeatures, VideoLanguageModel
from stoa.objectives.all_clips import AllClips
from stoa.objectives.gather import gather_rows, gather_rows_no_grad, global_mean, world_size
from stoa.objectives.pairs import Asked, Words, match_logits
from stoa.objectives.random import Stream
from stoa.objectives.vtc import Similarities


class Pairs(NamedTuple):
    """The 3B pairs (v, t), (hard v, t), (v, hard t).

    Attributes:
        asked: their texts and clips.
        usable_B: bool, which clips have a negative.
    """

    asked: Asked
    usable_B: torch.Tensor


def draws_of(batch: VideoTextBatch) -> dict[Stream, int]:
    """What is drawn of a clip: a number for each clip of all ranks, and one that tells how its negative is drawn."""
    return dict.fromkeys((Stream.VTM_VIDEO, Stream.VTM_TEXT), world_size() * len(batch) + 1)


def draw_negatives(
    scores_BA: torch.Tensor, same_BA: torch.Tensor, uniform_BA: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """One column a row from softmax(scores) over the columns that are not the same pair.

    By the Gumbel-max trick, without a host sync.

    Returns:
        (column (B,) int64, usable (B,) bool); a row with no negative is not usable.
    """
    gumbel_BA = -torch.log(-torch.log(uniform_BA))
    keys_BA = (scores_BA.detach() + gumbel_BA).masked_fill(same_BA, -torch.inf)
    return keys_BA.argmax(dim=1), (~same_BA).any(dim=1)


def draw_pairs(
    batch: VideoTextBatch,
    video: VideoFeatures,
    all_clips: AllClips,
    text: TextFeatures,
    scores: Similarities,
    draws: Mapping[Stream, torch.Tensor],
    *,
    hard_share: float | torch.Tensor = 1.0,
) -> Pairs:
    """Each clip with its text, and a negative either way.

    Args:
        all_clips: of ``video`` and those of the other ranks.
        draws: uniform numbers, of the streams and sizes of :func:`draws_of`.
        hard_share: probability that a negative is drawn from the softmax of the scores, as the paper's are, a number or
            a tensor (); else all other pairs are alike.
    """
    B, A = scores.same_BA.shape

    def negatives(scores_BA: torch.Tensor, uniform: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        assert uniform.shape[1] == A + 1
        is_hard_B1 = uniform[:, A:] < hard_share
        return draw_negatives(scores_BA * is_hard_B1, scores.same_BA, uniform[:, :A])

    hard_video_B, usable_B = negatives(scores.text_to_video_BA, draws[Stream.VTM_VIDEO])
    hard_text_B, _ = negatives(scores.video_to_text_BA, draws[Stream.VTM_TEXT])
    text_ALd = gather_rows(text.tokens_BLd)
    # In one call: no id is negative.
    ids_AL = gather_rows_no_grad(batch.tokens_BL.where(batch.text_mask_BL, -1))
    text_mask_AL = ids_AL >= 0

    video_CGd, video_valid_CG = video.tokens_BGd, video.valid_BG
    own_B = torch.arange(B, device=hard_video_B.device)
    hard_clip_B = hard_video_B
    if A > B:  # of the other ranks' clips those that were drawn
        video_CGd = torch.cat([video_CGd, all_clips.tokens_AGd.index_select(0, hard_video_B)])
        video_valid_CG = torch.cat([video_valid_CG, all_clips.valid_AG.index_select(0, hard_video_B)])
        hard_clip_B = B + own_B
    asked = Asked(
        video_CGd,
        video_valid_CG,
        torch.cat([own_B, hard_clip_B, own_B]),
        torch.cat([text.tokens_BLd, text.tokens_BLd, text_ALd.index_select(0, hard_text_B)]),
        torch.cat([batch.tokens_BL, batch.tokens_BL, ids_AL.clamp(min=0).index_select(0, hard_text_B)]),
        torch.cat([batch.text_mask_BL, batch.text_mask_BL, text_mask_AL.index_select(0, hard_text_B)]),
    )
    return Pairs(asked, usable_B)


class Told(NamedTuple):
    """What the pairs tell.

    Attributes:
        loss, accuracy: averaged over ranks, each is the mean over all pairs.
        own_words: of each clip's own text, by the likelihood: what PLM asks for where no prefix is given.
    """

    loss: torch.Tensor
    accuracy: torch.Tensor
    own_words: Words | None


def vtm_loss(
    model: VideoLanguageModel, rows_NQw: torch.Tensor, pairs: Pairs, table_Vw: torch.Tensor | None = None
) -> Told:
    """Cross-entropy of matched / unmatched, of the rows of
    :func:`stoa.objectives.pairs.match_pass`; ``table_Vw`` as ``match_logits`` there takes it."""
    logits, words = match_logits(model, rows_NQw, pairs.asked.token_ids_NL, pairs.asked.text_mask_NL, table_Vw)
    usable_B, B = pairs.usable_B, len(pairs.usable_B)
    target = torch.cat([logits.new_ones(B), logits.new_zeros(2 * B)]).long()
    weight = torch.cat([torch.ones_like(usable_B), usable_B, usable_B]).to(logits.dtype)
    total = (weight * F.cross_entropy(logits, target, reduction="none")).sum()
    correct = (weight * (logits.argmax(dim=1) == target)).sum()
    own_words = None if words is None else Words(words.losses_NQ[:B], words.counted_NQ[:B])
    return Told(global_mean(total, weight.sum()), global_mean(correct, weight.sum()).detach(), own_words)
