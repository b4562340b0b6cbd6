"""A plan from what a user asks for."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stoa.config import Config
from stoa.costs.devices import GPUS, gpu_named
from stoa.files import write_whole
from stoa.planning import table
from stoa.planning.imagined import ImaginedRun
from stoa.planning.links import Cluster
from stoa.planning.plan import Choice, Estimate, Planner, cheapest, smallest_gpu
from stoa.planning.scaling import Scaling

_GIB = 2**30


@dataclass(frozen=True, kw_only=True)
class Request:
    """What is asked for.

    Attributes:
        gpu: its name.
        nodes: machines.
        gpus_per_node: GPUs of each.
        network_gbit: Gbit/s that a machine sends and receives.
        precision: ``fp32``, ``fp16`` or ``bf16``; none is the GPU's half precision.
        micro_batch: clips of a GPU in a pass; none is what is cheapest.
        global_batch: clips of an optimiser step; none is one pass of every GPU.
        clips: of the data set.
        scaling: GPUs up to which to tell how the cheapest scales; none does not.
    """

    gpu: str
    nodes: int = 1
    gpus_per_node: int = 8
    network_gbit: float = 100.0
    precision: str | None = None
    micro_batch: int | None = None
    global_batch: int | None = None
    clips: int | None = None
    scaling: int | None = None

    def __post_init__(self) -> None:
        for name in ("nodes", "gpus_per_node", "micro_batch", "global_batch", "clips", "scaling"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"--{name} is {value}; expected at least 1")
        if not self.network_gbit > 0:
            raise ValueError(f"--network_gbit is {self.network_gbit}; expected more than 0")
        world, batch = self.nodes * self.gpus_per_node, self.global_batch
        if batch is None:
            return
        a_pass = world * (self.micro_batch or 1)
        if batch % a_pass:
            near = max(a_pass, round(batch / a_pass) * a_pass)
            raise ValueError(
                f"--global_batch is {batch}, and {world} GPUs of {self.micro_batch or 1} clips or more take multiples "
                f"of {a_pass}; the nearest is {near}"
            )


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What was found.

    Attributes:
        planner: of the recipe on the GPUs.
        rows: of each ZeRO stage and each choice of what is recomputed the fastest that fits, or else the smallest.
        best: the cheapest.
        config: the recipe.
        request: what was asked for.
        said: lines on what was taken for granted.
        scaling: of the cheapest; none where it was not asked for.
    """

    planner: Planner
    rows: list[Estimate]
    best: Estimate
    config: Config
    request: Request
    said: list[str]
    scaling: Scaling | None

    def lines(self) -> list[str]:
        steps, frames = self.config.training.max_steps, self.config.model.num_frames
        return [
            *table.assumptions(self.planner),
            *self.said,
            "",
            *table.table(self.rows, self.planner),
            "",
            *table.chosen(self.best, self.planner, steps=steps, clips=self.request.clips, num_frames=frames),
            *table.ready_to_copy(self.best, self.planner),
            *(["", *self.scaling.lines()] if self.scaling else []),
        ]

    def as_json(self) -> dict[str, Any]:
        found = table.as_json(self.rows, self.best, self.planner)
        return found | ({"scaling": self.scaling.as_json()} if self.scaling else {})


def plan(config: Config, request: Request, *, write: Path | None = None) -> Plan:
    """Plan a recipe.

    Args:
        config: the recipe.
        request: on which GPUs.
        write: file for DeepSpeed's JSON of the cheapest choice.

    Raises:
        ValueError: the GPU is not known or lacks the precision, the recipe fits nowhere, or ``write`` is there already.
    """
    gpu = gpu_named(request.gpu, "--gpu")
    precision = request.precision or gpu.half_precision
    if precision not in gpu.tflops:
        raise ValueError(f"--precision is {precision}; {gpu.name} has {', '.join(gpu.tflops)}")
    if write is not None and write.exists():
        raise ValueError(f"--write {write} is there already; choose another name, or remove it")
    run = ImaginedRun(config.model, config.objectives, config.training, precision=precision)
    planner = Planner(run, Cluster(gpu, request.nodes, request.gpus_per_node, request.network_gbit), precision)
    rows = list(_rows(planner, request))
    best = _cheapest_that_fits(planner, request, rows)
    if write is not None:
        write_whole(write, json.dumps(planner.deepspeed_config(best.choice), indent=2) + "\n")
    said = []
    if config.model.lm_vocab == "used":
        said.append("model.lm_vocab is used: counted with all of the vocabulary, since no captions were read")
    scaling = Scaling(planner, best.choice, request.scaling) if request.scaling is not None else None
    return Plan(planner=planner, rows=rows, best=best, config=config, request=request, said=said, scaling=scaling)


def _cheapest_that_fits(planner: Planner, request: Request, rows: list[Estimate]) -> Estimate:
    """The cheapest row whose own step, traced, fits as well; a row that does not makes way for one of fewer clips."""
    left = list(rows)
    while (found := cheapest(left, planner.room)) is not None:
        exact = planner.estimate(found.choice, exact=True)
        if exact.memory.total <= planner.room:
            return exact
        left.remove(found)
        fewer = [
            planner.estimate(choice)
            for choice in planner.choices(request.micro_batch, request.global_batch)
            if choice[:2] == found.choice[:2] and choice.clips < found.choice.clips
        ]
        left += fewer[-1:]
    raise ValueError(_does_not_fit(planner, request, min(rows, key=lambda one: one.memory.total)))


def _rows(planner: Planner, request: Request) -> Iterator[Estimate]:
    by_kind: dict[tuple[Any, ...], list[Choice]] = {}
    for choice in planner.choices(request.micro_batch, request.global_batch):
        by_kind.setdefault((choice.stage, choice.recomputed), []).append(choice)
    for choices in by_kind.values():
        estimates = [planner.estimate(choice) for choice in choices]
        fitting = [one for one in estimates if one.memory.total <= planner.room]
        yield max(fitting, key=lambda one: one.samples_per_second) if fitting else estimates[0]


def _does_not_fit(planner: Planner, request: Request, least: Estimate) -> str:
    gpu, choice = planner.cluster.gpu, least.choice
    fewer = cheapest([planner.estimate(other) for other in planner.choices(None, None)], planner.room)
    larger = smallest_gpu(GPUS, least.memory.total, planner.precision)
    if fewer is not None and request.micro_batch is not None:
        advice = f"--micro_batch {fewer.choice.clips} fits"
    elif larger is not None:
        advice = f"it fits on {larger.name}"
    else:
        advice = "it fits on no GPU known here; take a smaller model.backbone"
    return (
        f"the recipe does not fit on {gpu.name}: ZeRO {choice.stage}, {choice.clips} clip(s) a GPU and "
        f"{table.named(choice.recomputed)} recomputed hold {least.memory.total / _GIB:.1f} GiB, and tensors have room "
        f"for {planner.room / _GIB:.1f}; {advice}"
    )
