"""Forward and backward time of recipes and of other formulations, as ratios against the first recipe.

    python benchmarks/step.py --recipes recipes/base.yaml recipes/stoa.yaml --batch 2 --rounds 5
    python benchmarks/step.py --recipes recipes/base.yaml recipes/stgt.yaml recipes/stgt.yaml,model.graph.pool=mean \\
      --model.num_frames 8 --model.activation_checkpointing false
    python benchmarks/step.py --recipes recipes/stoa.yaml --against released clean --batch 2 --rounds 3 \\
      --model.activation_checkpointing false

A recipe may have values of its own, after commas; values that are given hold for all. ``--against`` adds the first
recipe's step as the method's release formulates it, and as one would write it in PyTorch: see
:class:`ReleasedObjective` and :class:`CleanObjective`. All take turns in one process, so that what else the machine
does meets all of them alike; a ratio is the median over rounds of the ratio within a round. Data are random: every
caption is full, every box slot filled. In fp32.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from pathlib import Path

import torch
from formulations.clean import CleanObjective
from formulations.released import ReleasedObjective

from stoa.config import parse_run
from stoa.costs.batches import END, START, full_batch
from stoa.models.video_language import VideoLanguageModel
from stoa.objectives.total import TrainingObjective

FORMULATIONS = {"released": ReleasedObjective, "clean": CleanObjective}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipes", nargs="+", required=True, help="PATH[,key=value...]; the first is the unit")
    parser.add_argument("--against", nargs="+", default=[], choices=FORMULATIONS, help="formulations of the first")
    parser.add_argument("--batch", type=int, default=2, help="clips")
    parser.add_argument("--rounds", type=int, default=5, help="after one that is not counted")
    parser.add_argument("--out", type=Path, help="JSON file to write")
    args, values = parser.parse_known_args()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    runs = {}
    for recipe in args.recipes:
        path, *own = recipe.split(",")
        given = [*values, *(f"--{value}" for value in own)]
        config = parse_run(["--recipe", path, "--deepspeed_config", "none", *given])
        torch.manual_seed(0)
        used = [*range(320, 420), START, END] if config.model.lm_vocab == "used" else None
        model = VideoLanguageModel(config.model, used_token_ids=used)
        objective = TrainingObjective(model, config.objectives, seed=0).to(device)
        runs[recipe] = (objective, full_batch(config.model, args.batch, device))
    ours, batch = runs[args.recipes[0]]
    runs |= {name: (FORMULATIONS[name](ours), batch) for name in args.against}
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for step in range(args.rounds + 1):
        for name, (objective, batch) in runs.items():
            started = time.perf_counter()
            loss, _ = objective(batch, step)
            loss.backward()
            if device.type == "cuda":
                torch.cuda.synchronize()
            if step:
                seconds[name].append(time.perf_counter() - started)
            objective.zero_grad()
    unit = next(iter(runs))
    results = {}
    for name, times in seconds.items():
        ratios = [a / b for a, b in zip(times, seconds[unit], strict=True)]
        results[name] = {"ratio": statistics.median(ratios), "lowest": min(ratios), "highest": max(ratios)}
        print(
            f"{name:20} {statistics.median(ratios):.3f} x {unit} ({min(ratios):.3f} to {max(ratios):.3f}), "
            f"{statistics.median(times):.2f} s"
        )
    if args.out:
        facts = {"batch": args.batch, "rounds": args.rounds, "device": device.type, "torch": torch.__version__}
        args.out.write_text(json.dumps({"forward + backward": results, **facts}, indent=2) + "\n")


if __name__ == "__main__":
    main()
