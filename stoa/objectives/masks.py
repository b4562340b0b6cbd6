"""Attention masks of the fusion encoder, as bool tensors: True where a row sees a column.

Shape legend: B clips, G video-side tokens, L text tokens, S = G + L.
"""

from __future__ import annotations

import torch


def bidirectional_mask(text_mask_BL: torch.Tensor, video_valid_BG: torch.Tensor) -> torch.Tensor:
    """Everything sees everything but padding and the trajectories a clip lacks; (B, S, S)."""
    keys_BS = torch.cat([video_valid_BG, text_mask_BL], dim=1)
    return keys_BS[:, None, :].expand(-1, keys_BS.shape[1], -1)


def prefix_mask(text_mask_BL: torch.Tensor, prefix_B: torch.Tensor, video_valid_BG: torch.Tensor) -> torch.Tensor:
    """Prefix language modelling; (B, S, S).

    The first ``prefix`` text tokens are seen by all, the video side included; a later text token is seen
    by itself and the text after it. The video side never sees text beyond the prefix.
    """
    B, L = text_mask_BL.shape
    G = video_valid_BG.shape[1]
    position_L = torch.arange(L, device=text_mask_BL.device)
    in_prefix_BL = position_L < prefix_B[:, None]
    causal_LL = position_L <= position_L[:, None]
    mask_BSS = text_mask_BL.new_ones(B, G + L, G + L)
    mask_BSS[:, :, G:] = in_prefix_BL[:, None, :]
    mask_BSS[:, G:, G:] |= causal_LL
    return mask_BSS & torch.cat([video_valid_BG, text_mask_BL], dim=1)[:, None, :]


def two_stream_mask(text_mask_BL: torch.Tensor, video_valid_BG: torch.Tensor) -> torch.Tensor:
    """Language modelling by blanks; (B, G + 2L, G + 2L) for video, text and one blank a text position.

    The video side sees itself. Text sees the video side and the text up to itself. A blank sees the video side, the
    text before its position, and itself; nothing else sees a blank.
    """
    L, G = text_mask_BL.shape[1], video_valid_BG.shape[1]
    mask_SS = text_mask_BL.new_zeros(G + 2 * L, G + 2 * L)
    mask_SS[:, :G] = True
    ones_LL = text_mask_BL.new_ones(L, L)
    mask_SS[G : G + L, G : G + L] = ones_LL.tril()
    mask_SS[G + L :, G : G + L] = ones_LL.tril(-1)
    mask_SS[G + L :, G + L :] = torch.eye(L, dtype=torch.bool, device=mask_SS.device)
    keys_BS = torch.cat([video_valid_BG, text_mask_BL, torch.ones_like(text_mask_BL)], dim=1)
    return mask_SS & keys_BS[:, None, :]
