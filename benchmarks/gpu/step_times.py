"""A step of a recipe, forward and backward, by clips: with and without activation checkpointing, eager or compiled.

    PYTHONPATH=.:benchmarks python -m gpu.step_times --clips 8 64 128 --out step.json
    PYTHONPATH=.:benchmarks python -m gpu.step_times --clips 64 --checkpointing on --profile trace.json.gz
    PYTHONPATH=.:benchmarks python -m gpu.step_times --clips 64 --checkpointing off --compile --limit 150

The model is cast as DeepSpeed casts it. What does not fit, or does not compile, is told in its row.
"""

from __future__ import annotations

import argparse
import json
import signal
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from stoa.config import parse_run
from stoa.costs.batches import END, START, full_batch
from stoa.models.config import recomputed_parts
from stoa.models.video_language import VideoLanguageModel
from stoa.objectives.total import TrainingObjective
from stoa.training.engine import choose_attention

_TOP_OPERATORS = 30
_CHECKPOINTING = {"both": (True, False), "on": (True,), "off": (False,)}


def forward_and_backward(objective: TrainingObjective, clips: int, device: torch.device, *, compiled: bool) -> Any:
    """A function that runs a step and returns its loss."""
    batch = full_batch(objective.model.config, clips, device)
    run: Callable[..., Any] = torch.compile(objective) if compiled else objective

    def step() -> torch.Tensor:
        objective.zero_grad(set_to_none=True)
        loss = run(batch, 0)[0]
        loss.backward()
        return loss

    return step


def measure(step: Callable[[], torch.Tensor], clips: int, rounds: int, device: torch.device) -> dict[str, Any]:
    """Median time of a step after two that are not counted, and the peak of memory."""
    seconds = []
    for number in range(rounds + 2):
        if number == 2 and device.type == "cuda":
            torch.cuda.reset_peak_memory_stats()
        _wait(device)
        started = time.perf_counter()
        loss = step()
        _wait(device)
        seconds.append(time.perf_counter() - started)
    median = statistics.median(seconds[2:])
    facts = {"seconds": median, "clips a second": clips / median, "first step": seconds[0], "loss": loss.item()}
    if device.type == "cuda":
        facts["peak GiB"] = torch.cuda.max_memory_allocated() / 2**30
    return facts


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize()


def tried(step: Callable[[], dict[str, Any]], device: torch.device, limit: int) -> dict[str, Any]:
    """Its facts, or in one line why there are none; 0 is no limit of seconds."""
    signal.signal(signal.SIGALRM, _too_late)
    signal.alarm(limit)
    try:
        return step()
    except Exception as error:  # of the compiler any, and no memory: what a machine cannot do is a result here
        return {"failed": f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"}
    finally:
        signal.alarm(0)
        if device.type == "cuda":
            torch.cuda.empty_cache()


def _too_late(*_: object) -> None:
    raise TimeoutError("it took longer than --limit")


def profile(step: Callable[[], torch.Tensor], trace: Path, device: torch.device) -> dict[str, Any]:
    """The trace of one step, and the operators that take longest."""
    for _ in range(3):
        step()
    _wait(device)
    activities = [torch.profiler.ProfilerActivity.CPU]
    if device.type == "cuda":
        activities.append(torch.profiler.ProfilerActivity.CUDA)
    with torch.profiler.profile(activities=activities) as profiler:
        step()
        _wait(device)
    profiler.export_chrome_trace(str(trace))
    averages = profiler.key_averages()
    by = "self_device_time_total" if device.type == "cuda" else "self_cpu_time_total"
    print(averages.table(sort_by=by, row_limit=_TOP_OPERATORS, max_name_column_width=80))
    rows = sorted(averages, key=lambda row: -getattr(row, by))[:_TOP_OPERATORS]
    return {"microseconds": {row.key[:120]: [getattr(row, by), row.count] for row in rows}}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--dtype", choices=["float16", "bfloat16", "float32"], default="bfloat16")
    parser.add_argument("--recipe", default="recipes/stoa.yaml")
    parser.add_argument("--clips", type=int, nargs="+", default=[8, 64, 128])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--checkpointing", choices=list(_CHECKPOINTING), default="both")
    parser.add_argument("--compile", action="store_true", help="what cannot be compiled is a result, not a failure")
    parser.add_argument("--limit", type=int, default=0, help="seconds of a row, or it counts as failed")
    parser.add_argument("--profile", type=Path, help="trace of one step to write; no times are taken")
    parser.add_argument("--out", type=Path, help="JSON file, written anew with every row")
    args = parser.parse_args()
    device = torch.device(args.device)
    choose_attention(device)
    torch.manual_seed(0)
    config = parse_run(["--recipe", args.recipe, "--deepspeed_config", "none"])
    used = [*range(320, 420), START, END] if config.model.lm_vocab == "used" else None
    model = VideoLanguageModel(config.model, used_token_ids=used)
    objective = TrainingObjective(model, config.objectives, seed=0).to(device, getattr(torch, args.dtype))
    report: dict[str, Any] = {"dtype": args.dtype, "recipe": args.recipe, "compiled": args.compile, "rows": []}
    for clips in args.clips:
        for checkpointing in _CHECKPOINTING[args.checkpointing]:
            model.recompute(recomputed_parts(checkpointing))
            row = {"clips": clips, "activation checkpointing": checkpointing}

            def facts(clips: int = clips) -> dict[str, Any]:
                step = forward_and_backward(objective, clips, device, compiled=args.compile)
                if args.profile:
                    return profile(step, args.profile, device)
                return measure(step, clips, args.rounds, device)

            row |= tried(facts, device, args.limit)
            objective.zero_grad(set_to_none=True)
            torch.compiler.reset()
            report["rows"].append(row)
            print({name: value for name, value in row.items() if name != "microseconds"}, flush=True)
            if args.out:
                args.out.write_text(json.dumps(report, indent=2) + "\n")
    if not args.compile and all("failed" in row for row in report["rows"]):
        raise SystemExit(f"no step has run: {report['rows'][0]['failed']}")


if __name__ == "__main__":
    main()
