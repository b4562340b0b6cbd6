"""Attention within groups of tokens that share a label.

Shapes: B clips, H heads, S tokens, Q queries, D head width.
"""

import torch
from torch import Tensor
from torch.nn import functional


def trajectory_attention(q: Tensor, k: Tensor, v: Tensor, labels: Tensor, q_labels: Tensor | None = None) -> Tensor:
    """Scaled dot-product attention in which query i sees key j iff their labels agree and are not negative.

    Args:
        q: (B, H, Q, D); without `q_labels` its rows are the tokens, Q = S.
        k, v: (B, H, S, D).
        labels: (B, S) int64, -1 where there is no token.
        q_labels: (B, Q) int64, labels of the queries.

    Returns:
        (B, H, Q, D); a row that is no token, or sees none, is zero.

    Raises:
        ValueError: an argument has the wrong shape or dtype.
    """
    q_labels = labels if q_labels is None else q_labels
    _check(q, k, v, labels, q_labels)
    return reference(q, k, v, labels, q_labels)


def reference(q: Tensor, k: Tensor, v: Tensor, labels: Tensor, q_labels: Tensor) -> Tensor:
    """Through `scaled_dot_product_attention` with a boolean mask."""
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
    for name, tensor, rows in (("labels", labels, S), ("q_labels", q_labels, q.shape[2])):
        if tensor.shape != (B, rows) or tensor.dtype != torch.int64:
            raise ValueError(f"{name} must be ({B}, {rows}) int64, got {tuple(tensor.shape)} {tensor.dtype}")
