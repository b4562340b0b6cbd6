"""Which configurations of a recipe fit on GPUs, and which of them is the cheapest."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from stoa.costs.devices import Gpu
from stoa.models.config import Recomputable
from stoa.planning.imagined import ImaginedRun
from stoa.planning.links import Cluster, communication, gathering, waiting
from stoa.planning.memory import Memory, memory_of, room
from stoa.planning.roofline import HOST_SECONDS, Seconds, passes, update
from stoa.planning.states import BYTES, states

MOST_CLIPS = 4096
_TRACED = (4, 32)
"""Clips of the steps that are traced; what others hold and take is on the line through both."""
_AS_GOOD = 0.98
_BUCKET = 50_000_000
"""Elements that are reduced at once."""


class Choice(NamedTuple):
    """What a user can choose.

    Attributes:
        stage: of ZeRO.
        recomputed: parts whose activations are not kept.
        clips: of a rank in one pass.
        accumulation: passes of a step.
    """

    stage: int
    recomputed: tuple[Recomputable, ...]
    clips: int
    accumulation: int = 1


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """What a choice needs.

    Attributes:
        choice: see :class:`Choice`.
        memory: of a GPU at its fullest.
        seconds: of a step.
        samples_per_second: of all GPUs.
    """

    choice: Choice
    memory: Memory
    seconds: Seconds
    samples_per_second: float


class Planner:
    """Of a recipe on GPUs.

    Args:
        run: the recipe.
        cluster: the GPUs.
        precision: of the products.
    """

    def __init__(self, run: ImaginedRun, cluster: Cluster, precision: str) -> None:
        self.run, self.cluster, self.precision = run, cluster, precision
        self.room = room(cluster.gpu.memory_gib * 2**30)

    def choices(self, micro_batch: int | None, global_batch: int | None) -> Iterator[Choice]:
        """All that there are, but those of more clips than fit."""
        world = self.cluster.world
        for stage in (0, 1, 2) if self.precision == "fp32" else (1, 2):
            for recomputed in self.run.recomputable():
                for clips in _sizes(micro_batch, global_batch, world):
                    accumulation = 1 if global_batch is None else global_batch // (world * clips)
                    yield Choice(stage, recomputed, clips, accumulation)

    def estimate(self, choice: Choice, *, exact: bool = False) -> Estimate:
        """Of one choice; ``exact`` takes the step of these very clips."""
        world = self.cluster.world
        held = states(self.run.parameters, self.run.trained, self.deepspeed_config(choice), world=world)
        sizes = (choice.clips,) if exact else self._traced(choice.clips)
        steps = [
            self.run.step(clips, world=world, recomputed=choice.recomputed, keeps_gradients=choice.stage == 0)
            for clips in sizes
        ]
        before = _on_line(sizes, [step.before for step in steps], choice.clips)
        after = _on_line(sizes, [step.after for step in steps], choice.clips)
        device = _on_line(sizes, [passes(step.work, self.cluster.gpu, self.precision) for step in steps], choice.clips)
        host = HOST_SECONDS * _on_line(sizes, [step.work.total() for step in steps], choice.clips)
        gathered = _on_line(sizes, [gathering(step.sent, self.cluster) for step in steps], choice.clips)
        trained, size = sum(self.run.trained), BYTES[self.precision]
        times = choice.accumulation
        longer = max(device, host)
        seconds = Seconds(
            device=times * device,
            host=times * host,
            update=update(trained, self.cluster, partitioned=choice.stage > 0),
            gathering=times * gathered,
            communication=communication(
                choice.stage, size * trained, size * _BUCKET, self.cluster, passes=longer, accumulation=times
            ),
            waiting=waiting(times * longer, self.cluster),
        )
        clips = world * choice.clips * times
        return Estimate(
            choice=choice,
            memory=memory_of(held, before, after),
            seconds=seconds,
            samples_per_second=clips / seconds.total,
        )

    def deepspeed_config(self, choice: Choice) -> dict[str, Any]:
        """DeepSpeed's JSON of a choice."""
        config: dict[str, Any] = {"train_micro_batch_size_per_gpu": choice.clips}
        if choice.accumulation > 1:
            config["gradient_accumulation_steps"] = choice.accumulation
        config["gradient_clipping"] = 1.0
        config["zero_optimization"] = {"stage": choice.stage, "overlap_comm": True, "reduce_bucket_size": _BUCKET}
        if self.precision == "fp16":
            config["fp16"] = {"enabled": True, "initial_scale_power": 16, "loss_scale_window": 1000, "hysteresis": 2}
        if self.precision == "bf16":
            config["bf16"] = {"enabled": True}
        return config

    def _traced(self, clips: int) -> tuple[int, ...]:
        """Of which sizes steps are traced for so many clips: those that pass in chunks are on another line than those
        that do not."""
        chunk = self.run.objective.chunk_clips
        if chunk is None:
            return _TRACED
        return (clips,) if clips <= chunk else (2 * chunk, 6 * chunk)


def cheapest(estimates: Sequence[Estimate], room: int) -> Estimate | None:
    """Of those that fit, the one with the fewest GPU hours; among those that are as good, by 2%, the one with the least
    of ZeRO and of recomputing, and then with the most clips."""
    fitting = [estimate for estimate in estimates if estimate.memory.total <= room]
    if not fitting:
        return None
    best = max(estimate.samples_per_second for estimate in fitting)
    good = [estimate for estimate in fitting if estimate.samples_per_second >= _AS_GOOD * best]
    return min(good, key=lambda one: (one.choice.stage, len(one.choice.recomputed), -one.choice.clips))


def smallest_gpu(gpus: Sequence[Gpu], needed: int, precision: str) -> Gpu | None:
    """That has the precision and room for so many bytes."""
    fitting = [gpu for gpu in gpus if room(gpu.memory_gib * 2**30) >= needed and precision in gpu.tflops]
    return min(fitting, key=lambda gpu: gpu.memory_gib, default=None)


def _sizes(micro_batch: int | None, global_batch: int | None, world: int) -> list[int]:
    if micro_batch is not None:
        return [micro_batch]
    if global_batch is None:
        return [2**power for power in range(MOST_CLIPS.bit_length())]
    a_rank = global_batch // world
    return [clips for clips in range(1, a_rank + 1) if a_rank % clips == 0]


def _on_line(at: Sequence[int], values: Sequence[float], clips: int) -> float:
    if len(at) == 1:
        return values[0]
    (first, second), (low, high) = at, values
    return low + (high - low) * (clips - first) / (second - first)
