"""Attention masks of the fusion encoder, as bool tensors: True where a row sees a column.

Shape legend: B clips, G video-side tokens, L text tokens, S = G + L.
"""

from __future__ import annotations

import torch
from torch.nn import functional as F


def bidirectional_mask(text_mask_BL: torch.Tensor, num_video_tokens: int) -> torch.Tensor:
    """Everything sees everything but padding; (B, S, S)."""
    keys_BS = F.pad(text_mask_BL, (num_video_tokens, 0), value=True)
    return keys_BS[:, None, :].expand(-1, keys_BS.shape[1], -1)


def prefix_mask(text_mask_BL: torch.Tensor, prefix_B: torch.Tensor, num_video_tokens: int) -> torch.Tensor:
    """Prefix language modelling; (B, S, S).

    The first ``prefix`` text tokens are seen by all, the video side included; a later text token is seen
    by itself and the text after it. The video side never sees text beyond the prefix.
    """
    B, L = text_mask_BL.shape
    G = num_video_tokens
    position_L = torch.arange(L, device=text_mask_BL.device)
    in_prefix_BL = position_L < prefix_B[:, None]
    causal_LL = position_L <= position_L[:, None]
    mask_BSS = text_mask_BL.new_ones(B, G + L, G + L)
    mask_BSS[:, :, G:] = in_prefix_BL[:, None, :]
    mask_BSS[:, G:, G:] |= causal_LL
    mask_BSS[:, :, G:] &= text_mask_BL[:, None, :]
    return mask_BSS
