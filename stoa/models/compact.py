"""Weights of a model with a small vocabulary, at a fraction of their size.

Of CLIP's 49,408 token embeddings a model of few words has trained a few hundred; the others are left out and are zero
when it is loaded again, so that all words it has never seen are alike. All weights are in half precision.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch

TABLE = "clip.token_embedding.weight"
TOKEN_IDS = "clip.token_embedding.ids"
"""int64, of the rows that are there; by it such weights are known."""
VOCABULARY = 49_408
"""Of CLIP."""


def compacted(state: Mapping[str, torch.Tensor], token_ids: Sequence[int] | None) -> dict[str, torch.Tensor]:
    """Weights to be stored.

    Args:
        state: of a model.
        token_ids: that its language head predicts, which are those it was trained on; None is all.

    Raises:
        ValueError: it has no vocabulary of its own, or a weight is beyond half precision.
    """
    if token_ids is None:
        raise ValueError("the model has no vocabulary of its own (model.lm_vocab: used), so nothing can be left out")
    ids = torch.tensor(token_ids, dtype=torch.int64)
    small = {TOKEN_IDS: ids}
    for name, tensor in {**state, TABLE: state[TABLE][ids]}.items():
        small[name] = tensor.half() if tensor.is_floating_point() and tensor.ndim else tensor
        if not small[name].isfinite().all():
            raise ValueError(f"{name} holds values beyond half precision, so the model cannot be made compact")
    return small


def restored(state: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Weights in fp32, of which :func:`compacted` has made ``state``. Others stay as they are.

    Raises:
        ValueError: the ids are not those of the rows.
    """
    if TOKEN_IDS not in state:
        return dict(state)
    whole = {name: tensor.float() if tensor.is_floating_point() else tensor for name, tensor in state.items()}
    ids, table = whole.pop(TOKEN_IDS), whole[TABLE]
    if ids.dtype != torch.int64 or ids.shape != table.shape[:1] or not ((ids >= 0) & (ids < VOCABULARY)).all():
        raise ValueError(f"{TOKEN_IDS} does not number the rows of {TABLE}; export the model again")
    whole[TABLE] = table.new_zeros(VOCABULARY, table.shape[1]).index_copy(0, ids, table)
    return whole
