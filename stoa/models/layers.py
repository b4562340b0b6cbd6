"""The pre-norm transformer block of CLIP, shared by the towers and every encoder copied from them.

Shape legend: B batch, S sequence, H heads, D head width, w model width.
"""

from __future__ import annotations

import copy
from collections import OrderedDict
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F


class SelfAttention(nn.Module):
    """Multi-head self-attention; parameter names and layout are those of ``nn.MultiheadAttention``."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.in_proj_weight = nn.Parameter(torch.empty(3 * width, width))
        self.in_proj_bias = nn.Parameter(torch.zeros(3 * width))
        self.out_proj = nn.Linear(width, width)
        nn.init.xavier_uniform_(self.in_proj_weight)

    def forward(
        self, x_BSw: torch.Tensor, mask: torch.Tensor | None = None, *, is_causal: bool = False
    ) -> torch.Tensor:
        """``mask`` is bool, broadcastable to (B, H, S, S); True lets a query (row) see a key (column)."""
        B, S, w = x_BSw.shape
        qkv = F.linear(x_BSw, self.in_proj_weight, self.in_proj_bias).view(B, S, 3, self.heads, w // self.heads)
        q_BHSD, k_BHSD, v_BHSD = qkv.permute(2, 0, 3, 1, 4).unbind(0)
        out_BHSD = F.scaled_dot_product_attention(q_BHSD, k_BHSD, v_BHSD, attn_mask=mask, is_causal=is_causal)
        return self.out_proj(out_BHSD.transpose(1, 2).reshape(B, S, w))


class Block(nn.Module):
    """``x + attention(LN(x))``, then ``x + MLP(LN(x))``.

    State-dict keys equal those of open_clip's residual block, so either loads the other's weights.
    """

    def __init__(self, width: int, heads: int, hidden: int, activation: nn.Module) -> None:
        super().__init__()
        self.ln_1 = nn.LayerNorm(width)
        self.attn = SelfAttention(width, heads)
        self.ln_2 = nn.LayerNorm(width)
        self.mlp = nn.Sequential(
            OrderedDict(c_fc=nn.Linear(width, hidden), gelu=activation, c_proj=nn.Linear(hidden, width))
        )

    @classmethod
    def like(cls, source: nn.Module) -> Block:
        """A block with the sizes, weights and activation of ``source`` (ours or open_clip's)."""
        attn: Any = source.attn
        heads = attn.heads if isinstance(attn, SelfAttention) else attn.num_heads
        mlp: Any = source.mlp
        block = cls(mlp.c_fc.in_features, heads, mlp.c_fc.out_features, copy.deepcopy(mlp.gelu))
        block.load_state_dict(source.state_dict())
        return block

    def forward(
        self, x_BSw: torch.Tensor, mask: torch.Tensor | None = None, *, is_causal: bool = False
    ) -> torch.Tensor:
        x_BSw = x_BSw + self.attn(self.ln_1(x_BSw), mask, is_causal=is_causal)
        return x_BSw + self.mlp(self.ln_2(x_BSw))
