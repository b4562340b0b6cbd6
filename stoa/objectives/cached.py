"""Gradient caching: the towers and what reads them see a batch in chunks, the losses see it whole.

Luyu Gao et al., "Scaling Deep Contrastive Learning Batch Size under Memory Limited Setup" (RepL4NLP 2021). The chunks
pass once without keeping activations; the losses give the gradient of what came out; in the backward pass each chunk
passes again and takes its share of that. Gradients are those of the whole batch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, NamedTuple

import torch
from torch import nn

Outputs = tuple[torch.Tensor, ...]


def encode_in_chunks(
    encode: Callable[[int], Outputs],
    chunks: int,
    parameters: Sequence[nn.Parameter],
    stand_in: Callable[[nn.Parameter], torch.Tensor] = lambda parameter: parameter,
) -> Outputs:
    """What ``encode`` gives for each chunk, concatenated along the first dimension.

    Args:
        encode: a pure function of the number of a chunk, of the parameters and of torch's random generators, which are
            put back when a chunk passes again.
        chunks: how many there are.
        parameters: that get gradients.
        stand_in: what takes the gradient of a parameter and hands it on.
    """
    return _InChunks.apply(encode, chunks, parameters, *map(stand_in, parameters))


class _Surroundings(NamedTuple):
    """What a chunk passes in: generators and autocast."""

    cpu: torch.Tensor
    cuda: torch.Tensor | None
    autocast: AbstractContextManager[Any]


class _InChunks(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        encode: Callable[[int], Outputs],
        chunks: int,
        parameters: Sequence[nn.Parameter],
        *stand_ins: torch.Tensor,
    ) -> Outputs:
        ctx.encode, ctx.parameters, ctx.surroundings, ctx.sizes = encode, parameters, [], []
        outputs = []
        for chunk in range(chunks):
            ctx.surroundings.append(_surroundings(parameters[0].device))
            outputs.append(encode(chunk))
            ctx.sizes.append(len(outputs[-1][0]))
        whole = tuple(torch.cat(parts) for parts in zip(*outputs, strict=True))
        ctx.mark_non_differentiable(*(x for x in whole if not x.is_floating_point()))
        ctx.set_materialize_grads(False)
        return whole

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor | None) -> tuple[torch.Tensor | None, ...]:
        sums: list[torch.Tensor | None] = [None] * len(ctx.parameters)
        split = [None if grad is None else grad.split(ctx.sizes) for grad in grads]
        wanted = [number for number, p in enumerate(ctx.parameters) if ctx.needs_input_grad[3 + number]]
        for chunk, around in enumerate(ctx.surroundings):
            with torch.enable_grad(), _inside(around, ctx.parameters[0].device):
                outputs = ctx.encode(chunk)
            pairs = [
                (output, parts[chunk])
                for output, parts in zip(outputs, split, strict=True)
                if parts is not None and output.requires_grad
            ]
            found = torch.autograd.grad(
                [output for output, _ in pairs],
                [ctx.parameters[number] for number in wanted],
                [grad for _, grad in pairs],
                allow_unused=True,
            )
            for number, grad in zip(wanted, found, strict=True):
                before = sums[number]
                sums[number] = grad if before is None else before if grad is None else before + grad
        return (None, None, None, *sums)


def _surroundings(device: torch.device) -> _Surroundings:
    autocast: AbstractContextManager[Any] = nullcontext()
    if device.type != "meta" and torch.is_autocast_enabled(device.type):
        autocast = torch.autocast(device.type, torch.get_autocast_dtype(device.type))
    cuda = torch.cuda.get_rng_state(device) if device.type == "cuda" else None
    return _Surroundings(torch.get_rng_state(), cuda, autocast)


@contextmanager
def _inside(around: _Surroundings, device: torch.device) -> Iterator[None]:
    """The surroundings of a chunk, and then again those of now."""
    now = _surroundings(device)
    _put_back(around, device)
    with around.autocast:
        yield
    _put_back(now, device)


def _put_back(around: _Surroundings, device: torch.device) -> None:
    torch.set_rng_state(around.cpu)
    if around.cuda is not None:
        torch.cuda.set_rng_state(around.cuda, device)
