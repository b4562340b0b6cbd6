"""The pre-norm transformer block of CLIP, shared by the towers and every encoder copied from them.

Shape legend: B batch, S sequence, Q queries, H heads, D head width, w model width.
"""

from __future__ import annotations

import copy
from collections import OrderedDict
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from open_clip.transformer import QuickGELU
from torch import nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from stoa.ops import quick_gelu
from stoa.ops._autocast import autocast_dtype
from stoa.ops.quick_gelu import reference as composed_quick_gelu

Attend = Callable[[torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]
"""q (B, H, Q, D), k and v (B, H, S, D) -> (B, H, Q, D)."""

Rows = Callable[[torch.Tensor], torch.Tensor]
"""(B, S, w) -> (B, Q, w): the rows that are wanted of a sequence."""

POSITION_SCALE = 0.3
"""Root mean square of new position and type embeddings, added to tokens whose own is 1. Much smaller ones (CLIP's 0.01,
next to tokens of the joint space) hide the order of frames and words for thousands of steps."""


def computes_slowly(q: torch.Tensor) -> bool:
    """Whether torch's attention, and its gradient above all, takes several times as long as in fp32."""
    return q.device.type == "cpu" and q.dtype in (torch.float16, torch.bfloat16)


def attention(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, *, attn_mask: torch.Tensor | None = None, **how: Any
) -> torch.Tensor:
    """:func:`torch.nn.functional.scaled_dot_product_attention`, in fp32 where that is much faster. Without data (meta
    device) it holds no scores, as on other devices."""
    if q.device.type == "meta":
        return torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(q, k, v, attn_mask=attn_mask, **how)[0]
    if not computes_slowly(q):
        return F.scaled_dot_product_attention(q, k, v, attn_mask=attn_mask, **how)
    if attn_mask is not None and attn_mask.is_floating_point():
        attn_mask = attn_mask.float()
    with torch.autocast("cpu", enabled=False):
        return F.scaled_dot_product_attention(q.float(), k.float(), v.float(), attn_mask=attn_mask, **how).to(q.dtype)


full: Attend = attention
causal: Attend = partial(attention, is_causal=True)


def masked(mask: torch.Tensor) -> Attend:
    """``mask`` is bool, broadcastable to (B, H, Q, S); True lets a query (row) see a key (column)."""
    return partial(attention, attn_mask=mask)


def coordinate_mlp(width: int, *, weight_std: float, most_bias: float, coordinates: int = 4) -> nn.Sequential:
    """Linear-GELU-Linear from coordinates, whose first layer is as steep as they are close to each other."""
    steep = nn.Linear(coordinates, width // 2)
    nn.init.normal_(steep.weight, std=weight_std)
    nn.init.uniform_(steep.bias, -most_bias, most_bias)
    return nn.Sequential(steep, nn.GELU(), nn.Linear(width // 2, width))


def at_least_fp32(x: torch.Tensor) -> torch.Tensor:
    """fp16 and bf16 to fp32; fp32 and fp64 as they are."""
    return x.float() if x.dtype in (torch.float16, torch.bfloat16) else x


def exact_product(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """``a @ b`` in their own precision, which autocast would lower."""
    if autocast_dtype(a.device.type) is None:
        return a @ b
    with torch.autocast(a.device.type, enabled=False):
        return a @ b


def recomputed(module: nn.Module, enabled: bool, *inputs: Any) -> Any:
    """``module(*inputs)``; where enabled, of what it computes only its outputs are kept, and the backward pass computes
    the rest again (torch's non-reentrant form). It has to draw no random numbers."""
    if enabled and torch.is_grad_enabled():
        return checkpoint(module, *inputs, use_reentrant=False, preserve_rng_state=False)
    return module(*inputs)


class QuickGelu(nn.Module):
    """The activation of OpenAI's CLIP. A graph that is compiled or exported has its formula: a compiler joins that with
    what is around it, and what was exported runs without this package."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return composed_quick_gelu(x) if torch.compiler.is_compiling() else quick_gelu(x)


class SelfAttention(nn.Module):
    """Multi-head self-attention; parameter names and layout are those of ``nn.MultiheadAttention``."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.in_proj_weight = nn.Parameter(torch.empty(3 * width, width))
        self.in_proj_bias = nn.Parameter(torch.zeros(3 * width))
        self.out_proj = nn.Linear(width, width)
        nn.init.xavier_uniform_(self.in_proj_weight)

    def forward(self, x_BSw: torch.Tensor, attend: Attend = full, rows: Rows | None = None) -> torch.Tensor:
        """With ``rows`` only these ask, and come out: (B, Q, w)."""
        w = x_BSw.shape[-1]
        if rows is None:
            q, k, v = F.linear(x_BSw, self.in_proj_weight, self.in_proj_bias).split(w, dim=-1)
        else:
            q = F.linear(rows(x_BSw), self.in_proj_weight[:w], self.in_proj_bias[:w])
            k, v = F.linear(x_BSw, self.in_proj_weight[w:], self.in_proj_bias[w:]).split(w, dim=-1)
        out_BHQD = attend(self._heads(q), self._heads(k), self._heads(v))
        return self.out_proj(out_BHQD.transpose(1, 2).flatten(2))

    def _heads(self, x_BSw: torch.Tensor) -> torch.Tensor:
        return x_BSw.unflatten(-1, (self.heads, -1)).transpose(1, 2)


class Block(nn.Module):
    """``x + attention(LN(x))``, then ``x + MLP(LN(x))``.

    State-dict keys equal those of open_clip's residual block, so either loads the other's weights.
    """

    def __init__(self, width: int, heads: int, hidden: int, activation: nn.Module, *, eps: float = 1e-5) -> None:
        super().__init__()
        self.ln_1 = nn.LayerNorm(width, eps=eps)
        self.attn = SelfAttention(width, heads)
        self.ln_2 = nn.LayerNorm(width, eps=eps)
        self.mlp = nn.Sequential(
            OrderedDict(c_fc=nn.Linear(width, hidden), gelu=activation, c_proj=nn.Linear(hidden, width))
        )

    @classmethod
    def like(cls, source: nn.Module) -> Block:
        """A block with the sizes, weights and activation of ``source`` (ours or open_clip's)."""
        attn: Any = source.attn
        heads = attn.heads if isinstance(attn, SelfAttention) else attn.num_heads
        mlp: Any = source.mlp
        norm: Any = source.ln_1
        activation = QuickGelu() if isinstance(mlp.gelu, QuickGELU) else copy.deepcopy(mlp.gelu)
        block = cls(mlp.c_fc.in_features, heads, mlp.c_fc.out_features, activation, eps=norm.eps)
        block.load_state_dict(source.state_dict())
        return block

    def forward(self, x_BSw: torch.Tensor, attend: Attend = full, rows: Rows | None = None) -> torch.Tensor:
        """With ``rows`` only these are computed: (B, Q, w)."""
        x_BQw = (x_BSw if rows is None else rows(x_BSw)) + self.attn(self.ln_1(x_BSw), attend, rows)
        return x_BQw + self.mlp(self.ln_2(x_BQw))
