"""Steps of one process, of two of a run, and of two that know nothing of each other, in turns on one machine.

    python benchmarks/scaling.py --out benchmarks/results/scaling-cpu.json

Each process computes on one thread and takes the same clips, of random data. Two processes of a run against two apart
tell what sending and waiting for each other costs, as both keep two cores busy; the median over rounds of the ratio
within a round. The collectives of such a step are timed by themselves as well, one behind the other, as a model of the
step would add them up.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import socket
import statistics
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from stoa.config import parse_run
from stoa.costs.batches import END, START, full_batch
from stoa.models.video_language import VideoLanguageModel
from stoa.objectives.gather import Collective
from stoa.objectives.total import TrainingObjective
from stoa.parts import watching
from stoa.planning.imagined import ImaginedRun
from stoa.planning.links import traffic
from stoa.profiling.stopwatch import Stopwatch
from stoa.training import engine as ds
from stoa.training.optim import build_optimizer

_BUCKET = 50_000_000
USED = [*range(320, 420), START, END]


class Steps:
    """Of one process, which the launcher's variables describe."""

    def __init__(self, recipe: str, clips: int) -> None:
        self.device = ds.init_distributed()
        config = parse_run(["--recipe", recipe, "--deepspeed_config", "none"])
        torch.manual_seed(0)
        model = VideoLanguageModel(config.model, used_token_ids=_used(config))
        objective = TrainingObjective(model, config.objectives, seed=0)
        zero = {"stage": 1, "reduce_bucket_size": _BUCKET}
        deepspeed = {"train_micro_batch_size_per_gpu": clips, "gradient_clipping": 1.0, "zero_optimization": zero}
        self.engine = ds.initialize(objective, build_optimizer(objective, config.training.optim), deepspeed)
        self.batch, self.number = full_batch(config.model, clips, self.device), 0
        imagined = ImaginedRun(
            config.model, config.objectives, config.training, precision="fp32", used_token_ids=_used(config)
        )
        self.sent = imagined.step(clips, world=2, recomputed=()).sent
        behind, seen = traffic(1, 4 * sum(imagined.trained), 4 * _BUCKET)
        self.weights = behind + seen

    def take(self, steps: int) -> dict[str, float]:
        """Seconds and CPU seconds a step, and of those the objectives' communication with its waits."""
        if dist.get_world_size() > 1:
            dist.barrier()
        watch = Stopwatch(self.device)
        begun, cpu = time.perf_counter(), time.process_time()
        with watching(watch):
            for _ in range(steps):
                loss, _ = self.engine(self.batch, torch.full((), self.number))
                self.engine.backward(loss)
                self.engine.step()
                self.number += 1
        seconds, cpu = time.perf_counter() - begun, time.process_time() - cpu
        gathering = watch.seconds().get("communication", 0.0)
        return {"seconds": seconds / steps, "cpu": cpu / steps, "gathering": gathering / steps}

    def send(self, steps: int) -> dict[str, float]:
        """Seconds of the collectives of a step by themselves: of the objectives, and of gradients and weights."""
        dist.barrier()
        return {name: _sending(what, steps) for name, what in (("gathering", self.sent), ("weights", self.weights))}


def _used(config: Any) -> list[int] | None:
    return USED if config.model.lm_vocab == "used" else None


def _sending(what: dict[Collective, int], times: int) -> float:
    calls = [(one.name, torch.zeros(int(one.bytes) // 4 // 2 * 2)) for one, n in what.items() for _ in range(n)]
    begun = time.perf_counter()
    for _ in range(times):
        for name, whole in calls:
            if name == "all_reduce" or not len(whole):
                dist.all_reduce(whole)
            elif name == "all_gather":
                dist.all_gather_into_tensor(whole, whole[: len(whole) // 2].clone())
            else:
                dist.reduce_scatter_tensor(whole[: len(whole) // 2].clone(), whole)
    return (time.perf_counter() - begun) / times


def _process(pipe: Connection, rank: int, world: int, port: int, recipe: str, clips: int) -> None:
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(world), "LOCAL_WORLD_SIZE": str(world)}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    torch.set_num_threads(1)
    steps = Steps(recipe, clips)
    pipe.send(None)
    while (asked := pipe.recv()) is not None:
        name, number = asked
        pipe.send({"take": steps.take, "send": steps.send}[name](number))


class Group:
    """Processes that take steps at once, of one run or each of its own."""

    def __init__(self, runs: int, ranks: int, recipe: str, clips: int) -> None:
        self.pipes, self.processes = [], []
        context = multiprocessing.get_context("spawn")
        for _ in range(runs):
            port = _free_port()
            for rank in range(ranks):
                ours, theirs = context.Pipe()
                process = context.Process(target=_process, args=(theirs, rank, ranks, port, recipe, clips), daemon=True)
                process.start()
                self.pipes.append(ours)
                self.processes.append(process)
        for pipe in self.pipes:
            pipe.recv()

    def ask(self, name: str, number: int, of: Callable[[list[float]], float]) -> dict[str, float]:
        for pipe in self.pipes:
            pipe.send((name, number))
        told = [pipe.recv() for pipe in self.pipes]
        return {key: of([one[key] for one in told]) for key in told[0]}

    def end(self) -> None:
        for pipe in self.pipes:
            pipe.send(None)
        for process in self.processes:
            process.join()


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


def spread(values: list[float]) -> dict[str, float]:
    return {"median": statistics.median(values), "lowest": min(values), "highest": max(values)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipe", default="recipes/small/stoa.yaml")
    parser.add_argument("--clips", type=int, default=16, help="of a process")
    parser.add_argument("--steps", type=int, default=4, help="of a turn")
    parser.add_argument("--rounds", type=int, default=15, help="after one that is not counted")
    parser.add_argument("--out", type=Path, help="JSON file to write")
    args = parser.parse_args()
    given = (args.recipe, args.clips)
    groups = {"one": Group(1, 1, *given), "a run": Group(1, 2, *given), "apart": Group(2, 1, *given)}
    told: dict[str, list[dict[str, float]]] = {name: [] for name in (*groups, "sending")}
    for number in range(args.rounds + 1):
        found = {
            name: group.ask("take", args.steps, max if name == "a run" else statistics.mean)
            for name, group in groups.items()
        }
        found["sending"] = groups["a run"].ask("send", args.steps, max)
        if number:
            for name, one in found.items():
                told[name].append(one)
    for group in groups.values():
        group.end()

    def ratio(key: str, above: str, below: str) -> dict[str, float]:
        return spread([a[key] / b[key] for a, b in zip(told[above], told[below], strict=True)])

    results = {
        "recipe": args.recipe,
        "clips of a process": args.clips,
        "steps of a turn": args.steps,
        "rounds": args.rounds,
        "seconds a step": {name: spread([one["seconds"] for one in told[name]]) for name in groups},
        "CPU seconds a step": {name: spread([one["cpu"] for one in told[name]]) for name in groups},
        "a run over apart": ratio("seconds", "a run", "apart"),
        "a run over apart, CPU seconds": ratio("cpu", "a run", "apart"),
        "apart over one": ratio("seconds", "apart", "one"),
        "objectives' communication in a step": spread([one["gathering"] for one in told["a run"]]),
        "sent alone: objectives": spread([one["gathering"] for one in told["sending"]]),
        "sent alone: gradients and weights": spread([one["weights"] for one in told["sending"]]),
        "modelled: a run over apart": spread(
            [
                (apart["seconds"] + sent["gathering"] + sent["weights"]) / apart["seconds"]
                for apart, sent in zip(told["apart"], told["sending"], strict=True)
            ]
        ),
        "device": "cpu",
        "torch": torch.__version__,
    }
    print(json.dumps(results, indent=2))
    if args.out:
        args.out.write_text(json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
    main()
