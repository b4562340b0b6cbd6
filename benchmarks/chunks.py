"""Gradient caching: memory and time of a step in chunks over those of the whole batch.

    python benchmarks/chunks.py --clips 8 --chunks 4 --out benchmarks/results/chunks-cpu.json

Peaks are of live tensors, weights among them, counted operation by operation in a step that is not timed. Steps take
turns; a ratio of times is the median over rounds. In fp32, with random data; nothing else is computed again.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from pathlib import Path

import torch

from stoa.config import parse_run
from stoa.costs.batches import full_batch
from stoa.costs.tracing import Tracer
from stoa.models.video_language import VideoLanguageModel
from stoa.objectives.total import TrainingObjective


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipe", default="recipes/stoa.yaml")
    parser.add_argument("--clips", type=int, default=8)
    parser.add_argument("--chunks", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--out", type=Path, help="JSON file to write")
    args = parser.parse_args()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    given = ["--recipe", args.recipe, "--deepspeed_config", "none", "--model.activation_checkpointing", "false"]
    config = parse_run(given)
    torch.manual_seed(0)
    objective = TrainingObjective(VideoLanguageModel(config.model), config.objectives, seed=0).to(device)
    batch = full_batch(config.model, args.clips, device)
    peaks, seconds = {}, {"whole": list[float](), "chunks": list[float]()}
    for number in range(args.rounds + 1):
        for name in seconds:
            objective.chunk_clips = None if name == "whole" else -(-args.clips // args.chunks)
            if number == 0:
                with Tracer() as tracer:
                    tracer.know("weights", objective.parameters())
                    objective(batch, 0)[0].backward()
                peaks[name] = tracer.peak
            else:
                begun = time.perf_counter()
                objective(batch, number)[0].backward()
                if device.type == "cuda":
                    torch.cuda.synchronize()
                seconds[name].append(time.perf_counter() - begun)
            objective.zero_grad(set_to_none=True)
    ratios = [c / w for c, w in zip(seconds["chunks"], seconds["whole"], strict=True)]
    found = {
        "recipe": args.recipe,
        "clips": args.clips,
        "chunks": args.chunks,
        "peak GiB": {name: peak / 2**30 for name, peak in peaks.items()},
        "peak over that of the whole": peaks["chunks"] / peaks["whole"],
        "time over that of the whole": {
            "median": statistics.median(ratios),
            "lowest": min(ratios),
            "highest": max(ratios),
        },
        "device": device.type,
        "torch": torch.__version__,
    }
    print(json.dumps(found, indent=2))
    if args.out:
        args.out.write_text(json.dumps(found, indent=2) + "\n")


if __name__ == "__main__":
    main()
