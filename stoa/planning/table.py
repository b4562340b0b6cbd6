"""A plan in words."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from stoa.planning.links import LINKS, UNEVEN
from stoa.planning.plan import Estimate, Planner
from stoa.planning.reading import PROCESS_FRAMES, processes, read_mb
from stoa.planning.roofline import HOST_SECONDS, MEMORY, PRODUCTS
from stoa.planning.words import aligned

_GIB = 2**30


def assumptions(planner: Planner) -> list[str]:
    """Of what the figures are, and what they rest on."""
    cluster, gpu, run = planner.cluster, planner.cluster.gpu, planner.run
    trained = sum(run.trained)
    links = [f"links in a machine at {LINKS:.0%} of {gpu.link_gb_s:g} GB/s"] * (cluster.gpus_per_node > 1)
    links += [f"the network at {LINKS:.0%} of {cluster.network_gbit:g} Gbit/s a machine"] * (cluster.nodes > 1)
    links += [f"GPUs differ by {UNEVEN:.0%}"] * (cluster.world > 1)
    return [
        f"{cluster.nodes} x {cluster.gpus_per_node} {gpu.name} in {planner.precision}; "
        f"{run.parameters / 1e6:.1f} M parameters, {trained / 1e6:.1f} M trained",
        f"modelled, not measured: products at {PRODUCTS:.0%} of {gpu.tflops[planner.precision]:g} TFLOP/s, memory at "
        f"{MEMORY:.0%} of {gpu.memory_gb_s:g} GB/s, {1e6 * HOST_SECONDS:g} us of the host for an operation",
        *[", ".join(links)] * bool(links),
    ]


def table(estimates: Sequence[Estimate], planner: Planner) -> list[str]:
    """One row an estimate."""
    heads = ["ZeRO", "recomputed", "clips a GPU", "weights", "optimiser", "passes", "update", "in all, GiB"]
    heads += [f"of {planner.room / _GIB:.1f}", "samples/s a GPU"]
    rows = [heads]
    for one in estimates:
        memory, choice = one.memory, one.choice
        held = (*memory, memory.total)
        rows.append(
            [
                str(choice.stage),
                named(choice.recomputed),
                str(choice.clips),
                *(f"{size / _GIB:.2f}" for size in held),
                "fits" if memory.total <= planner.room else "too much",
                f"{one.samples_per_second / planner.cluster.world:.1f}",
            ]
        )
    return aligned(rows)


def chosen(one: Estimate, planner: Planner, *, steps: int, clips: int | None, num_frames: int) -> list[str]:
    """The cheapest, what it costs and what it wants."""
    choice, seconds, cluster = one.choice, one.seconds, planner.cluster
    together = cluster.world * choice.clips
    passes = f" x {choice.accumulation} passes" if choice.accumulation > 1 else ""
    slower = "the host, which issues them" if seconds.host > seconds.device else "the GPU"
    lines = [
        f"cheapest: ZeRO {choice.stage}, {named(choice.recomputed)} recomputed, {choice.clips} clips a GPU{passes}; "
        f"{together:,} clips share a contrastive loss",
        f"  step: {seconds.total:.3f} s ({seconds.passes:.3f} s operations, bound by {slower}; "
        f"{seconds.update:.3f} s update)",
        f"  and, hidden by nothing: {seconds.gathering:.3f} s clips of other GPUs, {seconds.communication:.3f} s "
        f"gradients and weights, {seconds.waiting:.3f} s waits for the slowest",
        f"  {one.samples_per_second:,.0f} samples/s; {steps:,} steps take {_time(steps * seconds.total)}, "
        f"{steps * seconds.total * cluster.world / 3600:,.1f} GPU hours",
    ]
    if clips is not None:
        epoch = clips / one.samples_per_second
        passes_over = steps * together * choice.accumulation / clips
        lines.append(f"  {clips:,} clips: {_time(epoch)} an epoch; {steps:,} steps are {passes_over:.1f} epochs")
    a_gpu = one.samples_per_second / cluster.world
    lines.append(
        f"  data: {processes(a_gpu, num_frames)} loader processes a GPU (a core each, {PROCESS_FRAMES} frames/s, frame "
        f"packs of 224 px), {read_mb(a_gpu * cluster.gpus_per_node, num_frames):,.0f} MB/s read by a machine"
    )
    return lines


def ready_to_copy(one: Estimate, planner: Planner) -> list[str]:
    """The option of the recipe and DeepSpeed's JSON."""
    value = f"[{','.join(one.choice.recomputed)}]" if one.choice.recomputed else "false"
    config = json.dumps(planner.deepspeed_config(one.choice))
    return [f"  recipe: --model.activation_checkpointing {value}", f"  DeepSpeed: {config}"]


def as_json(estimates: Sequence[Estimate], best: Estimate, planner: Planner) -> dict[str, Any]:
    """All of it, in bytes and seconds, modelled."""
    return {
        "modelled": True,
        "gpu": planner.cluster.gpu.name,
        "nodes": planner.cluster.nodes,
        "gpus_per_node": planner.cluster.gpus_per_node,
        "precision": planner.precision,
        "parameters": planner.run.parameters,
        "trained": sum(planner.run.trained),
        "room": planner.room,
        "cheapest": _as_dict(best, planner),
        "choices": [_as_dict(one, planner) for one in estimates],
    }


def named(recomputed: Sequence[str]) -> str:
    return "+".join(recomputed) or "nothing"


def _as_dict(one: Estimate, planner: Planner) -> dict[str, Any]:
    return {
        **one.choice._asdict(),
        "memory": {**one.memory._asdict(), "total": one.memory.total},
        "fits": one.memory.total <= planner.room,
        "seconds": {**one.seconds._asdict(), "total": one.seconds.total},
        "samples_per_second": one.samples_per_second,
    }


def _time(seconds: float) -> str:
    for unit, size in (("days", 86400), ("hours", 3600), ("minutes", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:.1f} {unit}"
    return f"{seconds:.0f} s"
