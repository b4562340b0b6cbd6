"""What to change after a GPU has run out of memory, as the model behind ``stoa plan`` sees it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from stoa.models.config import ModelConfig, Recomputable
from stoa.objectives.config import ObjectivesConfig
from stoa.planning.imagined import ImaginedRun
from stoa.planning.memory import memory_of, room
from stoa.planning.states import precision_of, states
from stoa.training.config import TrainingConfig

_CLIPS = "train_micro_batch_size_per_gpu"
_MORE = "'stoa plan' tells what fits on which GPU"


def what_fits(
    device_bytes: int,
    model: ModelConfig,
    objectives: ObjectivesConfig,
    training: TrainingConfig,
    deepspeed_config: dict[str, Any],
    *,
    world: int,
    recomputed: Sequence[Recomputable],
    used_token_ids: Sequence[int] | None = None,
) -> str:
    """The least change by which a step has room.

    Args:
        device_bytes: of the GPU's memory.
        model, objectives, training: of the recipe.
        deepspeed_config: see :func:`stoa.training.deepspeed_config.read_config`.
        world: ranks.
        recomputed: parts whose activations are computed again now.
        used_token_ids: see :class:`stoa.models.video_language.VideoLanguageModel`.
    """
    clips = deepspeed_config[_CLIPS]
    if deepspeed_config.get("zero_optimization", {}).get("stage", 0) == 3:
        return f"lower {_CLIPS} {clips}, or set model.activation_checkpointing to true, in this order"
    run = ImaginedRun(
        model, objectives, training, precision=precision_of(deepspeed_config), used_token_ids=used_token_ids
    )
    held = states(run.parameters, run.trained, deepspeed_config, world=world)

    def needed(parts: Sequence[Recomputable], clips: int) -> int:
        step = run.step(clips, world=world, recomputed=parts, keeps_gradients=not held.gradients)
        return memory_of(held, step.before, step.after).total

    most, now = room(device_bytes), needed(recomputed, clips)
    told = f"a step of {clips} clips takes {_gib(now)} of the {_gib(most)} that tensors have room for, modelled"
    if now <= most:
        return (
            f"{told}: it should fit, so look whether other processes hold the GPU's memory (nvidia-smi), or lower "
            f"{_CLIPS} {clips}"
        )
    choices = run.recomputable()
    for parts in choices[choices.index(tuple(recomputed)) + 1 :] if tuple(recomputed) in choices else ():
        if (memory := needed(parts, clips)) <= most:
            return (
                f"{told}; with model.activation_checkpointing [{', '.join(parts)}] {_gib(memory)}, at the price of a "
                f"slower step; {_MORE}"
            )
    fewer = clips // 2
    while fewer:
        if (memory := needed(choices[-1], fewer)) <= most:
            return (
                f"{told}; {fewer} clips ({_CLIPS}) with model.activation_checkpointing true {_gib(memory)}; more GPUs, "
                f"or training.chunk_clips {fewer}, keep the size of the batch; {_MORE}"
            )
        fewer //= 2
    return (
        f"{told}, and not even one clip fits; ds_configs/zero3_offload_bf16.json keeps weights and optimiser in the "
        f"machine's memory, more GPUs share them under ZeRO; {_MORE}"
    )


def _gib(size: int) -> str:
    return f"{size / 2**30:.1f} GiB"
