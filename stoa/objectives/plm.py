"""Prefix language modelling (STOA-VLP, PLM) in one pass.

Shape legend: B clips, G video-side tokens, L text tokens, Q wanted rows, V vocabulary of the language head, d joint
width, w text width.
"""

from __future__ import annotations

from typing import Literal

import torch

from stoa.batch import VideoTextBatch
from stoa.models.incremental import PlmForm
from stoa.models.video_language import TextFeatures, VideoFeatures, VideoLanguageModel
from stoa.objectives.masks import prefix_mask, two_stream_mask
from stoa.objectives.mlm import language_loss
from stoa.objectives.random import Stream, uniform

Prefix = Literal["random", "start"]
"""Which prefix a caption has: one drawn at random, or the start token alone, which is captioning."""


def draw_prefix(text_mask_BL: torch.Tensor, uniform_B: torch.Tensor) -> torch.Tensor:
    """Prefix lengths (B,), uniform in 1..n-1 for n tokens; 1 (the start token alone) is captioning."""
    n_B = text_mask_BL.sum(dim=1)
    return (1 + (uniform_B * (n_B - 1)).long()).minimum(n_B - 1)


def plm_loss(
    model: VideoLanguageModel,
    batch: VideoTextBatch,
    video: VideoFeatures,
    text: TextFeatures,
    table_Vw: torch.Tensor,
    *,
    form: PlmForm = "one_pass",
    prefix: Prefix = "random",
    seed: int,
    step: int,
) -> torch.Tensor:
    """Row i predicts token i+1, for every token after the prefix, the end token included. Texts that say how much of
    them is given have that for a prefix; others have what ``prefix`` says.

    ``one_pass`` reads the prediction at token i itself, and the prefix is bidirectional. ``two_stream`` is what the
    method's release computes by one pass per position: a blank, with nothing but its position, reads the video and
    the text before it; the prefix only selects the tokens that count.
    """
    zero = torch.zeros_like(batch.position_B)
    if prefix == "start":
        prefix_B = torch.ones_like(batch.position_B)
    else:
        prefix_B = draw_prefix(batch.text_mask_BL, uniform(seed, step, Stream.PLM, batch.position_B, zero))
    prefix_B = batch.prefix_B.where(batch.prefix_B > 0, prefix_B)
    L = batch.tokens_BL.shape[1]
    next_L = torch.arange(1, L, device=prefix_B.device)
    rows_BLw = next_word_rows(
        model, video.tokens_BGd, video.valid_BG, text.tokens_BLd, batch.text_mask_BL, prefix_B, form
    )
    valid = (next_L >= prefix_B[:, None]) & batch.text_mask_BL[:, 1:]
    return language_loss(model, table_Vw, rows_BLw, batch.tokens_BL[:, 1:], valid)


def next_word_rows(
    model: VideoLanguageModel,
    video_BGd: torch.Tensor,
    video_valid_BG: torch.Tensor,
    text_BLd: torch.Tensor,
    text_mask_BL: torch.Tensor,
    prefix_B: torch.Tensor,
    form: PlmForm,
) -> torch.Tensor:
    """Fused rows (B, L - 1, w) for the language head; row i is to predict token i+1, if that is not of the prefix."""
    wanted_BQ = torch.arange(text_mask_BL.shape[1] - 1, device=text_mask_BL.device).expand(len(text_mask_BL), -1)
    if form == "one_pass":
        seen = prefix_mask(text_mask_BL, prefix_B, video_valid_BG)
        return model.fused_text(video_BGd, text_BLd, seen, wanted_BQ)
    return predict_at_blanks(model, video_BGd, video_valid_BG, text_BLd, text_mask_BL, wanted_BQ + 1)


def predict_at_blanks(
    model: VideoLanguageModel,
    video_BGd: torch.Tensor,
    video_valid_BG: torch.Tensor,
    text_BLd: torch.Tensor,
    text_mask_BL: torch.Tensor,
    wanted_BQ: torch.Tensor,
) -> torch.Tensor:
    """Fused rows (B, Q, w) of the blanks at the wanted positions; each knows the video and the text before it."""
    L = text_mask_BL.shape[1]
    positions_L = torch.arange(L, device=text_mask_BL.device).repeat(2)
    tokens = torch.cat([text_BLd, torch.zeros_like(text_BLd)], dim=1)
    seen = two_stream_mask(text_mask_BL, video_valid_BG)
    return model.fused_text(video_BGd, tokens, seen, L + wanted_BQ, positions_L)
