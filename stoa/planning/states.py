"""Bytes that training holds beside activations: weights, gradients, and what the optimiser keeps.

Gradients are what DeepSpeed's ZeRO holds of them in the backward pass: its part of the reduced ones, and the buckets
that they pass on the way. Shape legend: P parameters, W ranks.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from stoa.training.deepspeed_config import layout

BYTES = {"fp32": 4, "fp16": 2, "bf16": 2}
DEFAULT_BUCKET = 500_000_000
"""Elements, DeepSpeed's ``reduce_bucket_size``."""


class States(NamedTuple):
    """Of one rank, bytes.

    Attributes:
        weights: that the model computes with.
        optimiser: fp32 weights and two moments; 0 where they are offloaded.
        gradients: in the backward pass, from the first one on; 0 without ZeRO, where each is held by itself.
        update: at most in the update, in the place of gradients and activations.
    """

    weights: int
    optimiser: int
    gradients: int
    update: int


def precision_of(deepspeed_config: dict[str, Any]) -> str:
    """Of the weights: ``fp16``, ``bf16`` or ``fp32``."""
    on = layout(deepspeed_config)
    return next((name for name in ("fp16", "bf16") if on[name]), "fp32")


def states(parameters: int, trained: list[int], deepspeed_config: dict[str, Any], *, world: int) -> States:
    """What one rank holds.

    Args:
        parameters: of the model.
        trained: parameters of each group of the optimiser.
        deepspeed_config: see :func:`stoa.training.deepspeed_config.read_config`.
        world: ranks.
    """
    size = BYTES[precision_of(deepspeed_config)]
    zero = deepspeed_config.get("zero_optimization", {})
    total = sum(trained)
    if not zero.get("stage", 0):
        bucket = min(total, zero.get("reduce_bucket_size", DEFAULT_BUCKET)) if world > 1 else 0
        return States(size * parameters, 8 * total, 0, size * (total + bucket))
    own, largest = -(-total // world), -(-max(trained) // world)
    buckets = 2 if zero.get("overlap_comm", False) else 1
    staged = 0
    if zero.get("contiguous_gradients", True):
        staged = buckets * zero.get("reduce_bucket_size", DEFAULT_BUCKET)
    accumulated = 0
    if deepspeed_config.get("gradient_accumulation_steps", 1) > 1:
        accumulated = total if zero["stage"] == 1 else own
    if zero.get("offload_optimizer", {}).get("device") == "cpu":
        return States(size * parameters, 0, size * (own + staged + accumulated), 0)
    return States(
        weights=size * parameters,
        optimiser=12 * own,
        gradients=size * (own + staged + accumulated),
        update=size * (own + largest) + (4 * largest if size != 4 else 0),
    )
