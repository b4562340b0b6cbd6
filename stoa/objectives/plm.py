"""Prefix language modelling (STOA-VLP, PLM) in one pass.

Shape legend: B clips, G video-side tokens, L text tokens, Q wanted rows, V vocabulary of the language head, d joint
width, w text width.
"""

from __future__ import annotations

import torch

from stoa.batch import VideoTextBatch
from stoa.models.config import PlmForm
from stoa.models.fusion import FusionPass
from stoa.models.video_language import TextFeatures, VideoFeatures, VideoLanguageModel
from stoa.objectives.config import Prefix
from stoa.objectives.gather import global_mean
from stoa.objectives.masks import prefix_mask, two_stream_mask
from stoa.objectives.mlm import language_loss
from stoa.objectives.random import Stream


def draws_of(batch: VideoTextBatch) -> dict[Stream, int]:
    """What is drawn of a caption: how much of it is given."""
    return {Stream.PLM: 1}


def draw_prefix(text_mask_BL: torch.Tensor, uniform_B: torch.Tensor) -> torch.Tensor:
    """Prefix lengths (B,), uniform in 1..n-1 for n tokens; 1 (the start token alone) is captioning."""
    n_B = text_mask_BL.sum(dim=1)
    return (1 + (uniform_B * (n_B - 1)).long()).minimum(n_B - 1)


def prefixes(batch: VideoTextBatch, uniform: torch.Tensor, prefix: Prefix = "random") -> torch.Tensor:
    """Tokens (B,) int64 of each text that are given. Texts that say how many have that for a prefix; others have what
    ``prefix`` says.

    Args:
        uniform: draws (B, 1) of :func:`draws_of`.
    """
    if prefix == "start":
        prefix_B = torch.ones_like(batch.position_B)
    else:
        prefix_B = draw_prefix(batch.text_mask_BL, uniform[:, 0])
    return batch.prefix_B.where(batch.prefix_B > 0, prefix_B)


def plm_pass(
    model: VideoLanguageModel,
    batch: VideoTextBatch,
    video: VideoFeatures,
    text: TextFeatures,
    prefix_B: torch.Tensor,
    *,
    form: PlmForm = "one_pass",
) -> FusionPass:
    """Row i predicts token i+1.

    ``one_pass`` reads the prediction at token i itself, and the prefix is bidirectional. ``two_stream`` is what the
    method's release computes by one pass per position: a blank, with nothing but its position, reads the video and
    the text before it; the prefix only selects the tokens that count.
    """
    return next_word_pass(model, video.tokens_BGd, video.valid_BG, text.tokens_BLd, batch.text_mask_BL, prefix_B, form)


def plm_loss(
    model: VideoLanguageModel,
    batch: VideoTextBatch,
    rows_BQw: torch.Tensor,
    prefix_B: torch.Tensor,
    table_Vw: torch.Tensor,
) -> torch.Tensor:
    """Cross-entropy of every token after the prefix, the end token included, of the rows of :func:`plm_pass`."""
    valid_BQ = _after(prefix_B, batch.tokens_BL.shape[1]) & batch.text_mask_BL[:, 1:]
    return language_loss(model, table_Vw, rows_BQw, batch.tokens_BL[:, 1:], valid_BQ)


def plm_of_words(losses_BQ: torch.Tensor, counted_BQ: torch.Tensor, prefix_B: torch.Tensor) -> torch.Tensor:
    """The same loss where VTM has asked for all words of the clips' own texts, of what it was told of them."""
    valid_BQ = counted_BQ & _after(prefix_B, counted_BQ.shape[1] + 1)
    return global_mean(losses_BQ.where(valid_BQ, 0).sum(), valid_BQ.sum())


def _after(prefix_B: torch.Tensor, length: int) -> torch.Tensor:
    """Which of the tokens from the second on follow the prefix, (B, L - 1)."""
    return torch.arange(1, length, device=prefix_B.device) >= prefix_B[:, None]


def next_word_pass(
    model: VideoLanguageModel,
    video_BGd: torch.Tensor,
    video_valid_BG: torch.Tensor,
    text_BLd: torch.Tensor,
    text_mask_BL: torch.Tensor,
    prefix_B: torch.Tensor,
    form: PlmForm,
) -> FusionPass:
    """For rows (B, L - 1, w) for the language head; row i is to predict token i+1, if that is not of the prefix."""
    wanted_BQ = torch.arange(text_mask_BL.shape[1] - 1, device=text_mask_BL.device).expand(len(text_mask_BL), -1)
    if form == "one_pass":
        seen = prefix_mask(text_mask_BL, prefix_B, video_valid_BG)
        text_BLd = model.grounded(text_BLd, model.meanings(video_BGd, video_valid_BG))
        return model.text_pass(video_BGd, text_BLd, seen, wanted_BQ)
    return blanks_pass(model, video_BGd, video_valid_BG, text_BLd, text_mask_BL, wanted_BQ + 1)


def blanks_pass(
    model: VideoLanguageModel,
    video_BGd: torch.Tensor,
    video_valid_BG: torch.Tensor,
    text_BLd: torch.Tensor,
    text_mask_BL: torch.Tensor,
    wanted_BQ: torch.Tensor,
) -> FusionPass:
    """For fused rows (B, Q, w) of the blanks at the wanted positions; each knows the video and the text before it."""
    L = text_mask_BL.shape[1]
    positions_L = torch.arange(L, device=text_mask_BL.device).repeat(2)
    text_BLd = model.grounded(text_BLd, model.meanings(video_BGd, video_valid_BG))
    tokens = torch.cat([text_BLd, torch.zeros_like(text_BLd)], dim=1)
    seen = two_stream_mask(text_mask_BL, video_valid_BG)
    return model.text_pass(video_BGd, tokens, seen, L + wanted_BQ, positions_L)
