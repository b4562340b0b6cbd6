"""Weights that ZeRO 3 has split: as a whole for a while, and as inputs of a function outside their modules.

Autograd adds a gradient to a weight that has its shape, which a split one has only while its module works. So a
stand-in is the input, and when its gradient comes, the weight is gathered until that has been added and reduced.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn


@contextmanager
def gathered(parameters: Sequence[torch.Tensor], *, write: bool = False) -> Iterator[bool]:
    """Parameters as a whole, and whether they are split elsewhere; what all ranks ``write`` to them stays."""
    if not any(hasattr(parameter, "ds_id") for parameter in parameters):
        yield False
        return
    import deepspeed

    with deepspeed.zero.GatheredParameters(list(parameters), modifier_rank=0 if write else None):
        yield True


class SplitWeights:
    """Stand-ins for the trained weights of a module that DeepSpeed's ZeRO 3 has split.

    Args:
        module: after ``deepspeed.initialize``, whose own hooks have to come before those that are set here.
    """

    def __init__(self, module: nn.Module) -> None:
        # Autograd's nodes for the gradients. They live as long as somebody holds them, and keep the shape that the
        # weight had when they were made.
        self._nodes: list[Any] = []
        self._gathered = set[int]()
        for part in module.modules():
            weights = [weight for weight in part.parameters(recurse=False) if weight.requires_grad]
            with gathered(weights):
                self._nodes += [torch.autograd.graph.get_gradient_edge(weight).node for weight in weights]
            for weight in weights:
                weight.register_post_accumulate_grad_hook(self._release)

    def stand_in(self, weight: nn.Parameter) -> torch.Tensor:
        """Of the shape of the whole weight, without its values."""
        stand_in: torch.Tensor = _StandIn.apply(weight, self)
        return stand_in

    def gather(self, weight: Any) -> None:
        """Until its gradient has been added."""
        if weight.data.numel() < weight.ds_numel:
            weight.all_gather()
            self._gathered.add(weight.ds_id)

    def _release(self, weight: Any) -> None:
        if weight.ds_id in self._gathered:
            self._gathered.remove(weight.ds_id)
            weight.partition()


class _StandIn(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, weight: Any, owner: SplitWeights) -> torch.Tensor:
        ctx.weight, ctx.owner = weight, owner
        return torch.empty((), dtype=weight.dtype, device=weight.device).expand(weight.ds_shape)

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor, None]:
        ctx.owner.gather(ctx.weight)
        return grad, None
