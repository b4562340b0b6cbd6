"""Weights of a model with a small vocabulary, at a fraction of their size.

Of CLIP's 49,408 token embeddings a model of few words has trained a few hundred; the others are left out and are zero
when it is loaded again, so that all words it has never seen are alike. All weights are in half precision.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

TABLE = "clip.token_embedding.weight"


def compacted(state: dict[str, torch.Tensor], token_ids: Sequence[int] | None) -> dict[str, torch.Tensor]:
    """Weights to be stored.

    Args:
        state: of a model.
        token_ids: that its language head predicts, which are those it was trained on; None is all.

    Raises:
        ValueError: it has no vocabulary of its own, or a weight is beyond half precision.
    """
    if token_ids is None:
        raise ValueError("the model has no vocabulary of its own (model.lm_vocab: used), so nothing can be left out")
    small = {}
    for name, tensor in (state | {TABLE: state[TABLE][list(token_ids)]}).items():
        small[name] = tensor.half() if tensor.is_floating_point() and tensor.ndim else tensor
        if not small[name].isfinite().all():
            raise ValueError(f"{name} holds values beyond half precision, so the model cannot be made compact")
    return small


def restored(state: dict[str, torch.Tensor], token_ids: Sequence[int], rows: int) -> dict[str, torch.Tensor]:
    """Weights in fp32, of which :func:`compacted` has made ``state``; ``rows`` is the size of the token table."""
    whole = {name: tensor.float() if tensor.is_floating_point() else tensor for name, tensor in state.items()}
    table = whole[TABLE]
    whole[TABLE] = table.new_zeros(rows, table.shape[1]).index_copy(0, torch.tensor(token_ids), table)
    return whole
