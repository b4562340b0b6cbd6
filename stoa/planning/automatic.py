"""``model.activation_checkpointing: auto``: as little is computed again as the memory of the GPU asks for."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from stoa.models.config import RECOMPUTABLE, ModelConfig, Recomputable
from stoa.objectives.config import ObjectivesConfig
from stoa.planning.imagined import ImaginedRun
from stoa.planning.memory import Memory, memory_of, room
from stoa.planning.states import precision_of, states
from stoa.training.config import TrainingConfig

_KEY = "model.activation_checkpointing is auto"


def recomputed_on(
    device_bytes: int | None,
    model: ModelConfig,
    objectives: ObjectivesConfig,
    training: TrainingConfig,
    deepspeed_config: dict[str, Any],
    *,
    world: int,
    used_token_ids: Sequence[int] | None = None,
) -> tuple[tuple[Recomputable, ...], str]:
    """What to compute again.

    Args:
        device_bytes: of the GPU's memory; none without a GPU, where memory is what runs out first.
        model, objectives, training: of the recipe.
        deepspeed_config: see :func:`stoa.training.deepspeed_config.read_config`.
        world: ranks.
        used_token_ids: see :class:`stoa.models.video_language.VideoLanguageModel`.

    Returns:
        (parts, a line that says why)
    """
    if device_bytes is None:
        return RECOMPUTABLE, f"activations are computed again in the backward pass: there is no GPU ({_KEY})"
    run = ImaginedRun(
        model, objectives, training, precision=precision_of(deepspeed_config), used_token_ids=used_token_ids
    )
    held = states(run.parameters, run.trained, deepspeed_config, world=world)
    for parts in run.recomputable():
        step = run.step(
            deepspeed_config["train_micro_batch_size_per_gpu"],
            world=world,
            recomputed=parts,
            keeps_gradients=not held.gradients,
        )
        memory = memory_of(held, step.before, step.after)
        if memory.total <= room(device_bytes):
            break
    return parts, _why(parts, memory, device_bytes)


def _why(parts: tuple[Recomputable, ...], memory: Memory, device_bytes: int) -> str:
    of = f"{memory.total / 2**30:.1f} GiB of the {room(device_bytes) / 2**30:.1f} that tensors have room for, modelled"
    if not parts:
        return f"all activations are kept: {of} ({_KEY})"
    short = "" if memory.total <= room(device_bytes) else "; lower train_micro_batch_size_per_gpu if memory runs out"
    return f"activations of {', '.join(parts)} are computed again in the backward pass: {of}{short} ({_KEY})"
