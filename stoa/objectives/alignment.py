"""Object-text alignment and action-set prediction (STOA-VLP, OTA and ASP).

Shape legend: B clips on this rank, R rows (trajectories or action tokens), C columns (words and the null) of a clip, L
text tokens, d joint width.
"""

from __future__ import annotations

import torch
from torch.nn import functional as F

from stoa.batch import VideoTextBatch
from stoa.models.layers import at_least_fp32
from stoa.models.video_language import TextFeatures, VideoFeatures, VideoLanguageModel
from stoa.objectives.all_clips import AllClips
from stoa.objectives.config import AlignLoss, NullToken
from stoa.objectives.contrast import AllRows, Repeats, rows_among_words, words_among_clips
from stoa.objectives.gather import all_sum, global_mean
from stoa.objectives.matching import (
    Columns,
    Match,
    at_columns,
    judge_match,
    majority_class,
    match_rows,
    null_positions,
    truth_known,
    word_columns,
    word_keys,
)
from stoa.objectives.vtc import same_pairs

CONTRASTS: tuple[AlignLoss, ...] = ("nce", "nce_both")
"""Forms that compare with other clips of the global batch."""


def ota_loss(
    model: VideoLanguageModel,
    batch: VideoTextBatch,
    video: VideoFeatures,
    text: TextFeatures,
    all_clips: AllClips | None = None,
    *,
    form: AlignLoss,
    null_token: NullToken,
) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """Draw each trajectory to the noun it is matched to, or one of them to the null.

    Args:
        all_clips: for ``nce_both`` alone.
        form: see :func:`alignment_loss`.
        null_token: the text token that stands for "no noun".

    Returns:
        (loss, metrics with the prefix ``ota_``). ``ota_match_accuracy`` and ``ota_match_chance`` are NaN where the
        data do not know what their boxes show.
    """
    rows_BRd = model.word_head(model.group(video, "objects"))
    columns = word_columns(batch.noun_mask_BL & batch.word_end_BL, null_positions(batch.text_mask_BL, null_token))
    words_BCd = at_columns(text.tokens_BLd.detach(), columns)
    match = match_rows(rows_BRd, video.trajectory_labels_BN >= 0, words_BCd, columns)
    repeats = find_repeats(batch, batch.noun_mask_BL, columns) if form in CONTRASTS else None
    all_rows = _all_rows(model, "objects", all_clips) if form == "nce_both" else None
    loss, metrics = alignment_loss(rows_BRd, words_BCd, match, columns, form, repeats, all_rows)
    truth = judge_match(
        match,
        columns,
        majority_class(video.trajectory_labels_BN, batch),
        batch.noun_labels_BL,
        truth_known(batch.true_labels_BTK),
    )
    judged, right, by_chance = all_sum(torch.stack([counts_B.sum() for counts_B in truth])).unbind()
    metrics |= {"match_accuracy": right / judged, "match_chance": by_chance / judged}
    return loss, {f"ota_{name}": value for name, value in metrics.items()}


def asp_loss(
    model: VideoLanguageModel,
    batch: VideoTextBatch,
    video: VideoFeatures,
    text: TextFeatures,
    all_clips: AllClips | None = None,
    *,
    form: AlignLoss,
    null_token: NullToken,
    pad_null: bool,
) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """Draw each action token to the verb it is matched to, or one of them (with ``pad_null`` all others) to the null.

    Returns:
        (loss, metrics with the prefix ``asp_``).
    """
    rows_BRd = model.verb_head(model.group(video, "actions"))
    columns = word_columns(batch.verb_mask_BL & batch.word_end_BL, null_positions(batch.text_mask_BL, null_token))
    words_BCd = at_columns(text.tokens_BLd.detach(), columns)
    all_rows_BR = torch.ones(rows_BRd.shape[:2], dtype=torch.bool, device=rows_BRd.device)
    match = match_rows(rows_BRd, all_rows_BR, words_BCd, columns)
    if pad_null:
        match = match._replace(column_BR=match.column_BR.where(match.matched_BR, columns.count_B[:, None] - 1))
    repeats = find_repeats(batch, batch.verb_mask_BL, columns) if form in CONTRASTS else None
    all_rows = _all_rows(model, "actions", all_clips) if form == "nce_both" else None
    loss, metrics = alignment_loss(rows_BRd, words_BCd, match, columns, form, repeats, all_rows)
    return loss, {f"asp_{name}": value for name, value in metrics.items()}


def _all_rows(model: VideoLanguageModel, group: str, all_clips: AllClips | None) -> AllRows:
    """What is compared with words of the clips of all ranks: to map here what VTM needs as well is cheaper than to send
    what has been mapped."""
    assert all_clips is not None
    slot, head = model.fusion.slot(group), {"objects": model.word_head, "actions": model.verb_head}[group]
    return AllRows(head(all_clips.tokens_AGd[:, slot]), all_clips.valid_AG[:, slot])


def find_repeats(batch: VideoTextBatch, piece_BL: torch.Tensor, columns: Columns) -> Repeats:
    """See :class:`Repeats`.

    Args:
        piece_BL: bool, the pieces of the words that the columns stand for.
    """
    key_BL = word_keys(batch.tokens_BL, piece_BL, batch.word_end_BL)
    return Repeats(key_BL.gather(1, columns.position_BC), same_pairs(batch.clip_keys_B, batch.caption_keys_B))


def alignment_loss(
    rows_BRd: torch.Tensor,
    words_BCd: torch.Tensor,
    match: Match,
    columns: Columns,
    form: AlignLoss,
    repeats: Repeats | None = None,
    all_rows: AllRows | None = None,
) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """Mean distance of matched rows to their words, over the pairs of all ranks; by ``nce_both`` also that of words to
    their clips.

    Args:
        rows_BRd: with gradient.
        words_BCd: without.
        form: ``mse``, over pairs and dimensions, of the unnormalised vectors; ``cosine``, one minus the cosine;
            ``nce``, :func:`rows_among_words`; ``nce_both``, that and :func:`words_among_clips`, added up.
        repeats: for the last two alone.
        all_rows: for ``nce_both`` alone.

    Returns:
        (loss, metrics): ``explained``, the share of the words' variance that the rows explain, ``match_rate`` of the
        valid rows, ``null_share`` of the matched rows; NaN where there is nothing to measure.
    """
    rows_BRd, words_BCd = at_least_fp32(rows_BRd), at_least_fp32(words_BCd)
    column_BR = match.column_BR.clamp(min=0)
    target_BRd = words_BCd.gather(1, column_BR[..., None].expand(-1, -1, words_BCd.shape[-1]))
    matched_BR = match.matched_BR.to(rows_BRd.dtype)
    squared_BR = (rows_BRd - target_BRd).square().mean(dim=-1)
    if form == "mse":
        distance_BR = squared_BR
    elif form == "cosine":
        distance_BR = 1 - F.cosine_similarity(rows_BRd, target_BRd, dim=-1)
    else:
        assert repeats is not None
        distance_BR = rows_among_words(rows_BRd, words_BCd, match, columns, repeats)
    loss = global_mean((matched_BR * distance_BR).sum(), matched_BR.sum())
    if form == "nce_both":
        assert repeats is not None and all_rows is not None
        of_words = words_among_clips(all_rows, words_BCd, columns, repeats)
        loss = loss + global_mean(of_words.losses_BC.sum(), of_words.counted_BC.sum())
    with torch.no_grad():
        is_null_BR = match.matched_BR & (match.column_BR == columns.count_B[:, None] - 1)
        sums = torch.cat(
            [
                torch.stack([matched_BR.sum(), (matched_BR * squared_BR).sum()]),
                torch.stack([match.row_valid_BR.sum(), is_null_BR.sum()]).to(rows_BRd.dtype),
                (matched_BR * target_BRd.square().mean(dim=-1)).sum()[None],
                (matched_BR[..., None] * target_BRd).sum(dim=(0, 1)),
            ]
        )
        sums = all_sum(sums)
        pairs, squared, valid, null, target_squares = sums[:5].unbind()
        mean_square = target_squares / pairs
        variance = mean_square - (sums[5:] / pairs).square().mean()
        # Targets that are all the same have a variance of rounding errors alone, and nothing to explain.
        variance = variance.where(variance > 1e-6 * mean_square, torch.nan)
    return loss, {
        "explained": 1 - squared / pairs / variance,
        "match_rate": pairs / valid,
        "null_share": null / pairs,
    }
