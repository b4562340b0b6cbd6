"""What words mean of a clip: each is given the trajectories and action tokens that it is closest to.

Shape legend: C clips, N texts, each with one of them, L text tokens, K trajectories and action tokens, d joint width.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import nn
from torch.nn import functional as F

from stoa.models.layers import at_least_fp32, exact_product

MATCH_TEMPERATURE = 0.1
"""Of the softmax over cosines of tokens and words."""

_NULL_LOGIT = 3.0  # that of a cosine of 0.3; to a word that is close to none of K tokens nothing is 20 of 20 + K


class Meanings(NamedTuple):
    """What the words of texts may mean.

    Attributes:
        given_NKd: what a word is given of each token, normalised.
        compared_NKd: what it is compared with, of unit length, at least fp32.
        valid_NK: bool, tokens that there are.
    """

    given_NKd: torch.Tensor
    compared_NKd: torch.Tensor
    valid_NK: torch.Tensor

    @classmethod
    def of_clips(
        cls,
        tokens_CKd: torch.Tensor,
        compared_CKd: torch.Tensor,
        valid_CK: torch.Tensor,
        clip_N: torch.Tensor | None = None,
    ) -> Meanings:
        """
        Args:
            tokens_CKd: joint-space tokens of clips.
            compared_CKd: what is compared with words of each.
            valid_CK: bool, tokens that there are.
            clip_N: int64, the clip of each text; default each its own.
        """
        of_clips = cls(_normalised(tokens_CKd), F.normalize(at_least_fp32(compared_CKd), dim=-1), valid_CK)
        return of_clips if clip_N is None else cls(*(x.index_select(0, clip_N) for x in of_clips))

    def repeat(self, times: int) -> Meanings:
        """Of every text ``times`` times, side by side."""
        return Meanings(*(x.repeat_interleave(times, dim=0) for x in self))


class Grounding(nn.Module):
    """``LN(t) + sum_k p_k LN(o_k)`` of each text token ``t``, but of start tokens ``LN(t)``; ``p`` is
    ``softmax(cos / 0.1)`` over the tokens ``o`` of its clip and nothing at all, whose logit is learned. ``LN`` has no
    weights.

    The cosine is what OTA and ASP compare tokens and words by. So what they have found out need not be found out again
    by the attention of the fusion encoder. The end token, which OTA compares with what shows no noun, is grounded too.
    """

    def __init__(self) -> None:
        super().__init__()
        self.null_logit = nn.Parameter(torch.full((1,), _NULL_LOGIT))

    def forward(self, text_NLd: torch.Tensor, is_start_NL: torch.Tensor, meanings: Meanings) -> torch.Tensor:
        """Ground.

        Args:
            text_NLd: joint-space text tokens.
            is_start_NL: bool, broadcastable; start tokens mean nothing.
            meanings: of the clip of each text.
        """
        words_NLd = F.normalize(at_least_fp32(text_NLd), dim=-1)
        logits_NLK = exact_product(words_NLd, meanings.compared_NKd.transpose(1, 2)) / MATCH_TEMPERATURE
        logits_NLK = logits_NLK.masked_fill(~meanings.valid_NK[:, None] | is_start_NL[..., None], -torch.inf)
        null_NL1 = self.null_logit.to(logits_NLK.dtype).expand(*logits_NLK.shape[:2], 1)
        share_NLK = torch.cat([logits_NLK, null_NL1], dim=2).softmax(dim=2)[..., :-1]
        return _normalised(text_NLd) + share_NLK.to(meanings.given_NKd.dtype) @ meanings.given_NKd


def _normalised(x_d: torch.Tensor) -> torch.Tensor:
    return F.layer_norm(x_d, x_d.shape[-1:])
