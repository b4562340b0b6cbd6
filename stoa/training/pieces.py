"""Where DeepSpeed's optimiser keeps what it knows of each parameter: the one place that knows how ZeRO splits it.

Every stage holds pieces of flattened parameters: a whole one (stage 0), or what of it falls into this rank's part of a
group (1 and 2) or of the parameter (3).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from torch import nn

MOMENTS = ("exp_avg", "exp_avg_sq")
"""Of AdamW, as torch names them."""


class Piece(NamedTuple):
    """A run of elements of one trained parameter, and where the optimiser has them.

    Attributes:
        name: of the parameter in the model.
        start: the first of its elements, in the flattened parameter.
        elements: how many.
        held: the tensor that the optimiser steps, fp32.
        offset: of the first element in it.
        optimizer: of torch.
    """

    name: str
    start: int
    elements: int
    held: torch.Tensor
    offset: int
    optimizer: torch.optim.Optimizer

    @property
    def weights(self) -> torch.Tensor:
        """(elements,) fp32, a view."""
        return self.held.detach().view(-1)[self.offset :][: self.elements]

    def has_moments(self) -> bool:
        """Whether the optimiser has stepped it, or :meth:`make_moments` was called."""
        return "step" in self.optimizer.state[self.held]

    def moment(self, name: str) -> torch.Tensor:
        """(elements,) fp32, a view; of :data:`MOMENTS`."""
        moment: torch.Tensor = self.optimizer.state[self.held][name]
        return moment.view(-1)[self.offset :][: self.elements]

    @property
    def steps(self) -> int:
        """How often AdamW has stepped it."""
        return int(self.optimizer.state[self.held]["step"])

    def make_moments(self, steps: int) -> None:
        """Room for the moments, and the number of steps, as AdamW makes them at its first."""
        state = self.optimizer.state[self.held]
        for name in MOMENTS:
            if name not in state:
                state[name] = torch.zeros_like(self.held, memory_format=torch.preserve_format)
        # On the device, where a fused one has it.
        state["step"] = torch.full((), float(steps), dtype=torch.float32, device=self.held.device)


def pieces(engine: Any) -> Iterator[Piece]:
    """Those of this rank, of the trained parameters of the engine's model."""
    zero, model = engine.optimizer, engine.module.model
    names = {id(parameter): name for name, parameter in model.named_parameters() if parameter.requires_grad}
    if hasattr(zero, "fp32_partitioned_groups_flat"):  # ZeRO 3
        found = _of_parts_of_parameters(zero)
    elif hasattr(zero, "single_partition_of_fp32_groups"):  # ZeRO 1 and 2
        found = _of_parts_of_groups(zero.bit16_groups, zero.single_partition_of_fp32_groups)
    elif hasattr(zero, "fp32_groups_flat_partition"):  # ZeRO 1 with bf16 whose gradients are added up in fp32
        found = _of_parts_of_groups(zero.bf16_groups, zero.fp32_groups_flat_partition)
    else:
        found = ((p, 0, p.numel(), p, 0) for group in zero.param_groups for p in group["params"])
    optimizer = zero if isinstance(zero, torch.optim.Optimizer) else zero.optimizer
    for parameter, start, elements, held, offset in found:
        if elements > 0:
            yield Piece(names[id(parameter)], start, elements, held, offset, optimizer)


_Place = tuple[nn.Parameter, int, int, torch.Tensor, int]


def _of_parts_of_groups(groups: list[list[Any]], held: list[torch.Tensor]) -> Iterator[_Place]:
    for parameters, flat in zip(groups, held, strict=True):
        for parameter in parameters:
            mapping = parameter._hp_mapping
            if mapping is not None:
                here, there = mapping.lp_fragment_address, mapping.hp_fragment_address
                yield parameter, here.start, here.numel, flat, there.start


def _of_parts_of_parameters(zero: Any) -> Iterator[_Place]:
    for parameters in zero.fp16_groups:
        for parameter in parameters:
            group, offset, share = zero.grad_position[zero.get_param_id(parameter)]
            start = dist.get_rank() * share
            elements = min(share, parameter.ds_numel - start)  # the last ranks' shares are filled up
            yield parameter, start, elements, zero.fp32_partitioned_groups_flat[group], offset


@contextmanager
def rewritten(engine: Any) -> Iterator[None]:
    """All ranks: while weights of pieces are written. The model's own, of half precision or split, follow."""
    zero = engine.optimizer
    if hasattr(zero, "checkpoint_event_prologue"):
        zero.checkpoint_event_prologue()
    yield
    if hasattr(zero, "fp32_partitioned_groups_flat"):
        _follow_split_weights(zero)
    elif hasattr(zero, "update_lp_params"):
        zero.update_lp_params()
    if hasattr(zero, "checkpoint_event_epilogue"):
        zero.checkpoint_event_epilogue()


def _follow_split_weights(zero: Any) -> None:
    groups = zip(
        zero.fp32_partitioned_groups_flat, zero.fp16_partitioned_groups_flat, zero.fp16_partitioned_groups, strict=True
    )
    for held, flat, parts in groups:
        flat.data.copy_(held.data)
        for part, values in zip(parts, zero.unflatten(flat, parts), strict=True):
            part.data = values.data


def untrained(engine: Any) -> Mapping[str, torch.Tensor]:
    """What of the model's state the optimiser does not hold: frozen parameters and buffers."""
    trained = {name for name, parameter in engine.module.model.named_parameters() if parameter.requires_grad}
    state: dict[str, torch.Tensor] = engine.module.model.state_dict(keep_vars=True)
    return {name: tensor for name, tensor in state.items() if name not in trained}
