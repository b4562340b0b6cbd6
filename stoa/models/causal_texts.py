"""Causal texts beside clips, each clip computed once however many texts go with it.

The video side sees nothing of a causal text but its start token, of which all texts have the same. So both are the same
for all texts of a clip, and the texts need no more of them than their keys and values.

Shape legend: C clips, N texts, G video-side tokens, L text tokens, R = G + 1 tokens of a clip with the start token, E
those of a clip that ask, P packed tokens of all clips and texts, Q those that ask, S = G + L keys of a text, H heads, D
head width, d joint width, w text width. Of a text's own tokens the start token is left out where they are packed.
"""

from __future__ import annotations

from typing import NamedTuple

import torch

from stoa.models.layers import attention


class CausalPass(NamedTuple):
    """Texts that are to be fused, each with one of the clips.

    Attributes:
        video_CGd: joint-space tokens of all groups, in order.
        video_valid_CG: bool, tokens that others may see.
        clip_N: int64, which of the clips each text goes with.
        text_NLd: joint-space text tokens; the first is the start token, the same of all.
        text_mask_NL: bool.
    """

    video_CGd: torch.Tensor
    video_valid_CG: torch.Tensor
    clip_N: torch.Tensor
    text_NLd: torch.Tensor
    text_mask_NL: torch.Tensor


class Packing:
    """All tokens of a pass as one sequence (1, P, w): clips, each with the start token, then texts without it.

    Args:
        asked: the pass.
        pooled: place of the pooled video among the video-side tokens, the only one that is wanted of the last block.
    """

    def __init__(self, asked: CausalPass, pooled: int) -> None:
        self.clip_N, self.pooled = asked.clip_N, pooled
        self.end_N1 = asked.text_mask_NL.sum(dim=1, keepdim=True) - 1
        self.clips, self.texts = len(asked.video_CGd), len(asked.text_NLd)
        self.text_tokens = asked.text_NLd.shape[1] - 1
        start_C1 = asked.video_valid_CG.new_ones(self.clips, 1)
        self.seen_CR = torch.cat([asked.video_valid_CG, start_C1], dim=1)
        causal_LL = start_C1.new_ones(self.text_tokens, self.text_tokens).tril()
        own_NLL = causal_LL & asked.text_mask_NL[:, None, 1:]
        of_clip_NLR = self.seen_CR[self.clip_N, None].expand(-1, self.text_tokens, -1)
        self.seen_NLS = torch.cat([of_clip_NLR, own_NLL], dim=2)

    def pack(self, video_CGw: torch.Tensor, text_NLw: torch.Tensor) -> torch.Tensor:
        """Embedded tokens, (1, P, w)."""
        start_C1w = text_NLw[:1, :1].expand(self.clips, -1, -1)
        clips_CRw = torch.cat([video_CGw, start_C1w], dim=1)
        return torch.cat([clips_CRw.flatten(0, 1), text_NLw[:, 1:].flatten(0, 1)])[None]

    def attend(self, q_1HQD: torch.Tensor, k_1HPD: torch.Tensor, v_1HPD: torch.Tensor) -> torch.Tensor:
        """Clips see themselves, texts their clip and what is before them; (1, H, Q, D)."""
        (q_CHED, q_NHLD), (k_CHRD, k_NHLD), (v_CHRD, v_NHLD) = map(self._apart, (q_1HQD, k_1HPD, v_1HPD))
        of_clips_CHED = attention(q_CHED, k_CHRD, v_CHRD, attn_mask=self.seen_CR[:, None, None])
        k_NHSD, v_NHSD = (
            torch.cat([of_clip_CHRD.index_select(0, self.clip_N), own_NHLD], dim=2)
            for of_clip_CHRD, own_NHLD in ((k_CHRD, k_NHLD), (v_CHRD, v_NHLD))
        )
        of_texts_NHLD = attention(q_NHLD, k_NHSD, v_NHSD, attn_mask=self.seen_NLS[:, None])
        packed_QHD = torch.cat([x.transpose(1, 2).flatten(0, 1) for x in (of_clips_CHED, of_texts_NHLD)])
        return packed_QHD.transpose(0, 1)[None]

    def wanted(self, x_1Pw: torch.Tensor) -> torch.Tensor:
        """Of each clip the pooled video and the start token, and all texts; (1, Q, w)."""
        clips_w, texts_w = self._split(x_1Pw[0])
        clips_CRw = clips_w.unflatten(0, (self.clips, -1))
        ends_C2w = torch.stack([clips_CRw[:, self.pooled], clips_CRw[:, -1]], dim=1)
        return torch.cat([ends_C2w.flatten(0, 1), texts_w])[None]

    def rows(self, x_1Qw: torch.Tensor) -> torch.Tensor:
        """Of the wanted tokens those of each text, (N, L + 1, w): the pooled video, the end, and every token but the
        last, which predicts the one after it."""
        clips_w, texts_w = self._split(x_1Qw[0])
        pooled_Cw, start_Cw = clips_w.unflatten(0, (self.clips, 2)).unbind(dim=1)
        pooled_N1w, start_N1w = (x.index_select(0, self.clip_N)[:, None] for x in (pooled_Cw, start_Cw))
        text_NLw = torch.cat([start_N1w, texts_w.unflatten(0, (self.texts, -1))], dim=1)
        end_N1w = text_NLw.gather(1, self.end_N1[..., None].expand(-1, -1, text_NLw.shape[2]))
        return torch.cat([pooled_N1w, end_N1w, text_NLw[:, :-1]], dim=1)

    def _split(self, x_Pw: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        of_texts = self.texts * self.text_tokens
        return x_Pw[: len(x_Pw) - of_texts], x_Pw[len(x_Pw) - of_texts :]

    def _apart(self, x_1HPD: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Of the clips (C, H, its tokens, D), of the texts (N, H, L - 1, D)."""
        clips_HD, texts_HD = self._split(x_1HPD[0].transpose(0, 1))
        return tuple(
            x_HD.unflatten(0, (count, -1)).transpose(1, 2)
            for x_HD, count in ((clips_HD, self.clips), (texts_HD, self.texts))
        )
