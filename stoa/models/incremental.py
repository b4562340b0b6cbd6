"""The text side one token at a time: keys and values of what stands already are kept.

Shape legend: R rows (clips, or beams of clips), G video-side tokens, L text positions, P tokens of the prefix, Q tokens
of one pass, S keys, H heads, D head width, d joint width, w text width, V vocabulary of the language head.
"""

from __future__ import annotations

import torch
from torch.nn import functional as F

from stoa.models.config import PlmForm
from stoa.models.layers import Attend, at_least_fp32, attention
from stoa.models.video_language import VideoFeatures, VideoLanguageModel


class KeyValueCache:
    """Keys and values (R, H, S, D) of one block, which asks by :meth:`filling` first and by :meth:`extending` then."""

    keys: torch.Tensor
    values: torch.Tensor

    def filling(self, mask_RSS: torch.Tensor, capacity: int) -> Attend:
        """Attention under a mask that leaves its keys and values behind, with room for ``capacity`` of them."""

        def attend(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
            room = (0, 0, 0, capacity - k.shape[2])
            self.keys, self.values = F.pad(k, room), F.pad(v, room)
            return attention(q, k, v, attn_mask=mask_RSS[:, None])

        return attend

    def extending(self, slots_RQ: torch.Tensor, mask_RQS: torch.Tensor) -> Attend:
        """Attention that puts its keys and values into the slots, then sees the slots that the mask lets it see."""

        def attend(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
            rows_R1 = torch.arange(len(q), device=q.device)[:, None]
            self.keys[rows_R1, :, slots_RQ] = k.transpose(1, 2)
            self.values[rows_R1, :, slots_RQ] = v.transpose(1, 2)
            return attention(q, self.keys, self.values, attn_mask=mask_RQS[:, None])

        return attend

    def repeat(self, times: int) -> None:
        """Every row ``times`` times, side by side."""
        self.keys = self.keys.repeat_interleave(times, dim=0)
        self.values = self.values.repeat_interleave(times, dim=0)

    def reorder(self, rows_R: torch.Tensor, first_slot: int) -> None:
        """From ``first_slot`` on, row i becomes what row ``rows_R[i]`` was."""
        self.keys[:, :, first_slot:] = self.keys[rows_R, :, first_slot:]
        self.values[:, :, first_slot:] = self.values[rows_R, :, first_slot:]


class IncrementalText:
    """Texts that grow behind their prefixes, next to their videos.

    Args:
        model: in evaluation mode.
        video: of R clips.
        prefix_RP: int64, token ids of the prefixes, padded behind.
        lengths_R: int64, tokens of each prefix, at least 1.
        form: how the model has learned to predict.
    """

    def __init__(
        self,
        model: VideoLanguageModel,
        video: VideoFeatures,
        prefix_RP: torch.Tensor,
        lengths_R: torch.Tensor,
        form: PlmForm,
    ) -> None:
        self.model = model
        self.form = form
        self.table_Vw = model.language_table()
        self.valid_RG, self.meanings = video.valid_BG, model.meanings(video.tokens_BGd, video.valid_BG)
        self._text = [KeyValueCache() for _ in model.clip.text_blocks]
        self._fusion = [KeyValueCache() for _ in model.fusion.blocks]
        P, L = prefix_RP.shape[1], model.config.max_tokens
        mask_RP = torch.arange(P, device=prefix_RP.device) < lengths_R[:, None]
        causal_PP = mask_RP.new_ones(P, P).tril()
        causal_RPP = causal_PP.expand(len(mask_RP), -1, -1)
        words_RPw = model.clip.token_embedding(prefix_RP)
        text_RPd = model.clip.encode_text(words_RPw, attends=[c.filling(causal_RPP, L) for c in self._text])
        mask_RSS = self._prefix_mask(mask_RP, causal_PP)
        capacity = self.valid_RG.shape[1] + L
        text_RPd = model.grounded(text_RPd, self.meanings)
        x_RSw = torch.cat([model.fusion.embed_video(video.tokens_BGd), model.fusion.embed_text(text_RPd)], dim=1)
        model.fusion.encode(x_RSw, [cache.filling(mask_RSS, capacity) for cache in self._fusion])

    def next_token_logits(self, tokens_R: torch.Tensor, positions_R: torch.Tensor) -> torch.Tensor:
        """Logits (R, V) of what follows the tokens at the positions; what stands before them has been passed before,
        as part of the prefix or here. To pass the last token of the prefix again changes nothing."""
        model, L = self.model, self.model.config.max_tokens
        slots_RQ = positions_R[:, None]
        seen_RQL = torch.arange(L, device=positions_R.device) <= slots_RQ[..., None]
        words_RQw = model.clip.token_embedding(tokens_R)[:, None]
        attends = [cache.extending(slots_RQ, seen_RQL) for cache in self._text]
        text_RQd = model.clip.encode_text(words_RQw, slots_RQ, attends)
        text_RQd = model.grounded(text_RQd, self.meanings, slots_RQ)
        if self.form == "two_stream":
            # A blank in the next place, where the token itself will replace it.
            text_RQd = torch.cat([text_RQd, torch.zeros_like(text_RQd)], dim=1)
            slots_RQ = torch.cat([slots_RQ, slots_RQ + 1], dim=1)
            seen_RQL = torch.cat([seen_RQL, torch.roll(seen_RQL, 1, dims=2) | seen_RQL], dim=1)
        mask_RQS = torch.cat([self.valid_RG[:, None].expand(-1, seen_RQL.shape[1], -1), seen_RQL], dim=2)
        attends = [cache.extending(slots_RQ + self.valid_RG.shape[1], mask_RQS) for cache in self._fusion]
        fused_RQw = model.fusion.encode(model.fusion.embed_text(text_RQd, slots_RQ), attends)
        return at_least_fp32(model.language_logits(fused_RQw[:, -1], self.table_Vw))

    def repeat(self, times: int) -> None:
        """Every text ``times`` times, side by side."""
        self.valid_RG = self.valid_RG.repeat_interleave(times, dim=0)
        self.meanings = self.meanings and self.meanings.repeat(times)
        for cache in (*self._text, *self._fusion):
            cache.repeat(times)

    def reorder(self, rows_R: torch.Tensor) -> None:
        """Text i becomes what text ``rows_R[i]``, of the same video, was."""
        for cache in self._text:
            cache.reorder(rows_R, 0)
        for cache in self._fusion:
            cache.reorder(rows_R, self.valid_RG.shape[1])

    def _prefix_mask(self, mask_RP: torch.Tensor, causal_PP: torch.Tensor) -> torch.Tensor:
        """(R, G + P, G + P): what the rows of video and prefix see."""
        G, P = self.valid_RG.shape[1], mask_RP.shape[1]
        mask_SS = mask_RP.new_ones(G + P, G + P)
        if self.form == "two_stream":
            mask_SS[:G, G:] = False
            mask_SS[G:, G:] = causal_PP
        return mask_SS & torch.cat([self.valid_RG, mask_RP], dim=1)[:, None]
