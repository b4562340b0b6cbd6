"""Attention within groups of tokens that share a label.

Shapes: B clips, H heads, S tokens, Q queries, D head width.
"""

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from stoa.ops._autocast import autocast_dtype
from stoa.ops._extension import compiled_devices, forbid_second_derivative

MAX_HEAD_DIM = 128
_NAME = "stoa::trajectory_attention"
_DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
_COMPILED = compiled_devices(_NAME)


def trajectory_attention(q: Tensor, k: Tensor, v: Tensor, labels: Tensor, q_labels: Tensor | None = None) -> Tensor:
    """Scaled dot-product attention in which query i sees key j iff their labels agree and are not negative.

    Equals `scaled_dot_product_attention` with that mask; pairs that do not see each other are skipped. Differentiable
    in q, k and v, always in the same order of summation. Half precision is computed in float32; under autocast q, k
    and v are cast to its dtype, unless they are float64, as for `scaled_dot_product_attention`.

    Args:
        q: (B, H, Q, D) float16, bfloat16, float32 or float64; without `q_labels` its rows are the tokens, Q = S.
        k, v: (B, H, S, D), D up to 128.
        labels: (B, S) int64, -1 where there is no token.
        q_labels: (B, Q) int64, labels of the queries.

    Returns:
        (B, H, Q, D), laid out as a contiguous (B, Q, H, D); a row that is no token, or sees none, is zero.

    Raises:
        ValueError: an argument has the wrong shape or dtype.
    """
    q_labels = labels if q_labels is None else q_labels
    if (dtype := autocast_dtype(q.device.type)) is not None:
        q, k, v = (x if x.dtype == torch.float64 else x.to(dtype) for x in (q, k, v))
    _check(q, k, v, labels, q_labels)
    if q.device.type not in _COMPILED:
        return reference(q, k, v, labels, q_labels)
    out: Tensor = torch.ops.stoa.trajectory_attention(q, k, v, labels, q_labels)[0]
    return out


def reference(q: Tensor, k: Tensor, v: Tensor, labels: Tensor, q_labels: Tensor) -> Tensor:
    """`trajectory_attention` through `scaled_dot_product_attention` with a boolean mask."""
    mask = (q_labels[:, :, None] == labels[:, None, :]) & (labels >= 0)[:, None, :]
    sees = mask.any(dim=-1, keepdim=True)
    # A softmax over nothing is not a number; such a row sees everything and is then dropped.
    out = functional.scaled_dot_product_attention(q, k, v, attn_mask=(mask | ~sees)[:, None])
    return out.where(sees[:, None], 0)


def _check(q: Tensor, k: Tensor, v: Tensor, labels: Tensor, q_labels: Tensor) -> None:
    if k.dim() != 4 or k.shape != v.shape:
        raise ValueError(f"k and v must be (B, H, S, D), got {tuple(k.shape)} and {tuple(v.shape)}")
    B, H, S, D = k.shape
    if q.dim() != 4 or (q.shape[0], q.shape[1], q.shape[3]) != (B, H, D):
        raise ValueError(f"q must be ({B}, {H}, Q, {D}) like k, got {tuple(q.shape)}")
    if not 1 <= D <= MAX_HEAD_DIM:
        raise ValueError(f"k has a head width of {D}, allowed are 1 to {MAX_HEAD_DIM}")
    if q.dtype not in _DTYPES or k.dtype != q.dtype or v.dtype != q.dtype:
        raise ValueError(
            "q, k and v must share a dtype of float16, bfloat16, float32 and float64, got "
            f"{q.dtype}, {k.dtype} and {v.dtype}"
        )
    for name, tensor, rows in (("labels", labels, S), ("q_labels", q_labels, q.shape[2])):
        if tensor.shape != (B, rows) or tensor.dtype != torch.int64:
            raise ValueError(f"{name} must be ({B}, {rows}) int64, got {tuple(tensor.shape)} {tensor.dtype}")
    for name, tensor in (("k", k), ("v", v), ("labels", labels), ("q_labels", q_labels)):
        if tensor.device != q.device:
            raise ValueError(f"{name} is on {tensor.device}, q on {q.device}: move {name} to q.device")


def _empty_like(x: Tensor) -> Tensor:
    B, H, Q, D = x.shape
    return x.new_empty(B, Q, H, D).transpose(1, 2)


def _fake(q: Tensor, k: Tensor, v: Tensor, labels: Tensor, q_labels: Tensor) -> tuple[Tensor, Tensor]:
    return _empty_like(q), q.new_empty(q.shape[:3], dtype=torch.float64 if q.dtype == torch.float64 else torch.float32)


def _fake_backward(
    grad: Tensor, q: Tensor, k: Tensor, v: Tensor, labels: Tensor, q_labels: Tensor, out: Tensor, logsumexp: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    return _empty_like(q), _empty_like(k), _empty_like(v)


def _setup_context(ctx: Any, inputs: tuple[Tensor, ...], output: tuple[Tensor, Tensor]) -> None:
    ctx.mark_non_differentiable(output[1])
    ctx.save_for_backward(*inputs, *output)


def _backward(ctx: Any, grad: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
    return *torch.ops.stoa.trajectory_attention_backward(grad, *ctx.saved_tensors), None, None


if _COMPILED:
    torch.library.register_fake(_NAME, _fake)
    torch.library.register_fake(f"{_NAME}_backward", _fake_backward)
    torch.library.register_autograd(_NAME, _backward, setup_context=_setup_context)
    forbid_second_derivative(f"{_NAME}_backward")
