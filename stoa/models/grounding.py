"""What words mean of a clip: each is given the trajectories and action tokens that it is closest to.

Shape legend: C clips, N texts, each with one of them, L text tokens, K trajectories and action tokens, d joint width.
"""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F

from stoa.models.layers import at_least_fp32, exact_product

MATCH_TEMPERATURE = 0.1
"""Of the softmax over cosines of tokens and words."""

_NULL_LOGIT = 3.0  # a cosine of 0.3, above what tokens and words have at first


class Grounding(nn.Module):
    """``LN(t) + sum_k p_k LN(o_k)`` of each text token ``t``, but of start tokens ``LN(t)``; ``p`` is
    ``softmax(cos / 0.1)`` over the tokens ``o`` of its clip and nothing at all, whose logit is learned.

    The cosine is what OTA and ASP compare tokens and words by. So what they have found out need not be found out again
    by the attention of the fusion encoder.
    """

    def __init__(self) -> None:
        super().__init__()
        self.null_logit = nn.Parameter(torch.full((1,), _NULL_LOGIT))

    def forward(
        self,
        text_NLd: torch.Tensor,
        is_start_NL: torch.Tensor,
        tokens_CKd: torch.Tensor,
        meanings_CKd: torch.Tensor,
        valid_CK: torch.Tensor,
        clip_N: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Ground.

        Args:
            text_NLd: joint-space text tokens.
            is_start_NL: bool, broadcastable; start tokens mean nothing.
            tokens_CKd: joint-space tokens of clips.
            meanings_CKd: what is compared with words of each.
            valid_CK: bool, tokens that there are.
            clip_N: int64, the clip of each text; default each its own.
        """
        words_NLd, meanings_CKd = (F.normalize(at_least_fp32(x), dim=-1) for x in (text_NLd, meanings_CKd))
        given_CKd = _normalised(tokens_CKd)
        if clip_N is not None:
            meanings_CKd, given_CKd, valid_CK = (x.index_select(0, clip_N) for x in (meanings_CKd, given_CKd, valid_CK))
        logits_NLK = exact_product(words_NLd, meanings_CKd.transpose(1, 2)) / MATCH_TEMPERATURE
        logits_NLK = logits_NLK.masked_fill(~valid_CK[:, None] | is_start_NL[..., None], -torch.inf)
        null_NL1 = self.null_logit.to(logits_NLK.dtype).expand(*logits_NLK.shape[:2], 1)
        share_NLK = torch.cat([logits_NLK, null_NL1], dim=2).softmax(dim=2)[..., :-1]
        return _normalised(text_NLd) + share_NLK.to(given_CKd.dtype) @ given_CKd


def _normalised(x_d: torch.Tensor) -> torch.Tensor:
    return F.layer_norm(x_d, x_d.shape[-1:])
