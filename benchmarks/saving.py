"""What a checkpoint costs a training, written while it waits and in the background.

    python benchmarks/saving.py --out benchmarks/results/saving-cpu.json

A process takes steps; in the middle of a turn it saves, in either way. Stalled is by how much the turn is longer than
as many steps of turns without a checkpoint: the time that the save holds the training, and by which the steps are
slower while it is written. As a share it is set against the steps between two checkpoints (training.save_every).
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from scaling import Steps, spread

from stoa.files import bytes_of
from stoa.training.config import TrainingConfig
from stoa.training.saver import Saver

EVERY = TrainingConfig().save_every


class Turns:
    """Of a training by one process."""

    def __init__(self, recipe: str, clips: int, steps: int, folder: Path) -> None:
        self.training, self.steps, self.folder = Steps(recipe, clips), steps, folder
        self.model = self.training.engine.module.model

    def take(self, background: bool | None) -> dict[str, float]:
        """Seconds of a turn, of its save, and of the steps until that was written; None saves nothing."""
        begun = time.perf_counter()
        self.training.take(1)
        held, saver = 0.0, None
        if background is not None:
            saver = Saver(self.folder, keep=1, background=background, goes_on=False, say=lambda line: None)
            before = time.perf_counter()
            saver.save(self.training.engine, self.model, self.training.number, {}, last=False)
            held = time.perf_counter() - before
        self.training.take(self.steps - 1)
        if saver is not None:
            saver.finish()
        return {"seconds": time.perf_counter() - begun, "held": held}


def measured(recipe: str, clips: int, steps: int, rounds: int) -> dict[str, Any]:
    """Of a recipe: seconds and shares."""
    with tempfile.TemporaryDirectory() as folder:
        turns = Turns(recipe, clips, steps, Path(folder))
        told: dict[str, list[dict[str, float]]] = {"none": [], "waiting": [], "in the background": []}
        for number in range(rounds + 1):
            for (name, found), how in zip(told.items(), (None, False, True), strict=True):
                one = turns.take(how)
                if number:  # the first one allocates
                    found.append(one)
                print(recipe, number, name, one, flush=True)
        size = bytes_of(Path(folder))
    step = statistics.median(one["seconds"] for one in told["none"]) / steps
    results: dict[str, Any] = {"clips": clips, "steps of a turn": steps, "seconds a step": step, "bytes": size}
    for name in ("waiting", "in the background"):
        pairs = zip(told[name], told["none"], strict=True)
        stalled = [one["seconds"] - none["seconds"] for one, none in pairs]
        results[name] = {
            "held, seconds": spread([one["held"] for one in told[name]]),
            "stalled, seconds": spread(stalled),
            f"stalled, of {EVERY} steps": spread([seconds / (EVERY * step) for seconds in stalled]),
        }
    return results


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5, help="after one that is not counted")
    parser.add_argument("--small", action="store_true", help="the demo's recipe alone: a step of ViT-B/16 takes long")
    parser.add_argument("--out", type=Path, help="JSON file to write")
    args = parser.parse_args()
    os.environ |= {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "0"}
    results: dict[str, Any] = {"recipes/demo.yaml": measured("recipes/demo.yaml", 64, 6, args.rounds)}
    if not args.small:
        results["recipes/stoa.yaml"] = measured("recipes/stoa.yaml", 2, 4, max(args.rounds // 2, 1))
    results |= {"device": "cpu", "torch": torch.__version__, "threads": torch.get_num_threads()}
    print(json.dumps(results, indent=2))
    if args.out:
        args.out.write_text(json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
    main()
