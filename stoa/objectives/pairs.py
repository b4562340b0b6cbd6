"""Whether a text belongs to a clip: what is fused for it, and what is read.

Shape legend: C clips, N texts, each with one of them, G video-side tokens, L text tokens, Q wanted rows, V vocabulary
of the language head, d joint width, w text width.
"""

from __future__ import annotations

from typing import NamedTuple

import torch

from stoa.models.causal_texts import CausalPass
from stoa.models.fusion import FusionPass
from stoa.models.layers import at_least_fp32
from stoa.models.video_language import VideoLanguageModel
from stoa.objectives.masks import bidirectional_mask
from stoa.objectives.mlm import word_losses


class Asked(NamedTuple):
    """Texts, each asked about one of the clips.

    Attributes:
        video_CGd, video_valid_CG: the video sides of the clips, and what may be seen of them.
        clip_N: int64, which of the clips each text is asked about.
        text_NLd: joint-space text tokens.
        token_ids_NL: int64.
        text_mask_NL: bool.
    """

    video_CGd: torch.Tensor
    video_valid_CG: torch.Tensor
    clip_N: torch.Tensor
    text_NLd: torch.Tensor
    token_ids_NL: torch.Tensor
    text_mask_NL: torch.Tensor


def match_pass(model: VideoLanguageModel, asked: Asked) -> FusionPass | CausalPass:
    """For the rows (N, Q, w) of :func:`match_logits`.

    By the ``ends`` these are the pooled video and the end of the text, each of which sees all of both. By the
    ``likelihood`` text is causal, and the rows that predict its words follow those two.
    """
    video_CGd, valid_CG, clip_N, text_NLd, _, text_mask_NL = asked
    text_NLd = model.grounded(text_NLd, model.meanings(video_CGd, valid_CG, clip_N))
    if model.config.match_by == "likelihood":
        return CausalPass(video_CGd, valid_CG, clip_N, text_NLd, text_mask_NL)
    seen = bidirectional_mask(text_mask_NL, valid_CG[clip_N])
    return model.pair_pass(video_CGd[clip_N], text_NLd, seen, text_mask_NL)


class Words(NamedTuple):
    """Cross-entropy (N, Q) of each word of a text after those before it, at least fp32, and which words count."""

    losses_NQ: torch.Tensor
    counted_NQ: torch.Tensor


def match_logits(
    model: VideoLanguageModel,
    rows_NQw: torch.Tensor,
    token_ids_NL: torch.Tensor,
    text_mask_NL: torch.Tensor,
    table_Vw: torch.Tensor | None = None,
) -> tuple[torch.Tensor, Words | None]:
    """Logits (N, 2), at least fp32, of (no match, match), of the rows of :func:`match_pass`; and the words that they
    come from, by the ``likelihood``.

    By the ``likelihood`` the logit of a match is the head's and, times a learned scale, the log-probability of the
    text by the language head; words outside of its vocabulary do not count.

    Args:
        table_Vw: :meth:`VideoLanguageModel.language_table`, where it has been taken; for ``likelihood``.
    """
    logits_N2 = at_least_fp32(model.match_head(rows_NQw[:, :2].flatten(1)))
    if model.config.match_by == "ends":
        return logits_N2, None
    table_Vw = model.language_table() if table_Vw is None else table_Vw
    words = Words(*word_losses(model, table_Vw, rows_NQw[:, 2:], token_ids_NL[:, 1:], text_mask_NL[:, 1:]))
    no_match_N, match_N = logits_N2.unbind(dim=1)
    return torch.stack([no_match_N, match_N - model.match_scale * words.losses_NQ.sum(dim=1)], dim=1), words


class Answered(NamedTuple):
    """Log-probabilities (N,), fp32.

    Attributes:
        match_N: of a match.
        text_N: of the text after its start token, by the ``likelihood``.
    """

    match_N: torch.Tensor
    text_N: torch.Tensor | None


@torch.no_grad()
def answer(model: VideoLanguageModel, asked: Asked) -> Answered:
    """What a model says of texts and clips."""
    rows_NQw = model.fused(match_pass(model, asked))
    logits_N2, words = match_logits(model, rows_NQw, asked.token_ids_NL, asked.text_mask_NL)
    text_N = None if words is None else -words.losses_NQ.sum(dim=1).float()
    return Answered(logits_N2.float().log_softmax(dim=-1)[:, 1], text_N)


def match_log_probability(model: VideoLanguageModel, asked: Asked) -> torch.Tensor:
    """Of a match, (N,), fp32."""
    return answer(model, asked).match_N
