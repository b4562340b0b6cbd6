"""A training through train.py on a small store: so many steps, or killed midway and resumed to the end.

    PYTHONPATH=.:benchmarks python -m gpu.training --precision fp16 --data build/gpu-site/data/frames --work runs/check
    PYTHONPATH=.:benchmarks python -m gpu.training --precision bf16 --kill --data ... --work ... --out training.json

Exits with an error where a run fails, a step is missing or done twice, a loss is not finite or does not fall.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import sys
import time
from pathlib import Path
from typing import Any

from gpu.steps import ROOT, session

_CONFIGS = {"fp16": "pretrain.json", "bf16": "pretrain_h200.json"}
_LOG_EVERY = 5
_POLL_SECONDS = 0.2
_FALLS_AFTER = 100  # steps; fewer need not lower a loss


def command(args: argparse.Namespace, given: list[str]) -> list[str]:
    """Of the training; writes its DeepSpeed configuration, one of ours with the micro-batch of the check."""
    config = json.loads((ROOT / "ds_configs" / _CONFIGS[args.precision]).read_text())
    path = args.work / f"{args.precision}.json"
    path.write_text(json.dumps({**config, "train_micro_batch_size_per_gpu": args.clips}))
    settings = {
        "data.manifest": args.data,
        "training.output_dir": folder_of(args),
        "training.max_steps": args.steps,
        "training.save_every": args.steps // 2,
        "training.keep_checkpoints": 1,
        "training.log_every": _LOG_EVERY,
        "training.tensorboard": "false",
        "training.optim.warmup_steps": args.steps // 10,
    }
    values = [text for name, value in settings.items() for text in (f"--{name}", str(value))]
    return [sys.executable, "train.py", "--recipe", args.recipe, "--deepspeed_config", str(path), *values, *given]


def folder_of(args: argparse.Namespace) -> Path:
    return args.work / args.precision


def run_to_the_end(line: list[str], log: Path) -> float:
    """Its seconds; exits where it fails."""
    started = time.perf_counter()
    with open(log, "ab") as output, session(line, {}, output) as process:
        code = process.wait()
    print(log.read_text(errors="replace")[-4000:], flush=True)
    if code:
        sys.exit(f"the training ended with status {code}")
    return time.perf_counter() - started


def run_and_kill(line: list[str], log: Path, folder: Path, half: int) -> int:
    """Kill it and all its processes after its first checkpoint; returns the last step it told of."""
    with open(log, "ab") as output, session(line, {}, output) as process:
        while not ((folder / "checkpoints" / f"step-{half:08d}").is_dir() and last_step(folder) > half):
            if process.poll() is not None:
                print(log.read_text(errors="replace")[-4000:], flush=True)
                sys.exit(f"the training was to be killed after step {half} and ended with status {process.returncode}")
            time.sleep(_POLL_SECONDS)
    return last_step(folder)


def metrics(folder: Path) -> list[dict[str, Any]]:
    """Of each step; a last line that is not whole is left out."""
    path = folder / "metrics.jsonl"
    lines = path.read_text().split("\n")[:-1] if path.is_file() else []
    return [json.loads(line) for line in lines]


def last_step(folder: Path) -> int:
    return max((row["step"] for row in metrics(folder)), default=0)


def what_is_wrong(rows: list[dict[str, Any]], steps: int) -> str:
    """In a line, or nothing."""
    if [row["step"] for row in rows] != list(range(1, steps + 1)):
        return f"metrics.jsonl has steps {[row['step'] for row in rows][-5:]} last, expected each of 1 to {steps} once"
    losses = [row["loss"] for row in rows]
    if not all(math.isfinite(loss) for loss in losses):
        return "a loss is not finite"
    few = max(1, steps // 10)
    first, last = statistics.mean(losses[:few]), statistics.mean(losses[-few:])
    if steps >= _FALLS_AFTER and not last < first:
        return f"the loss does not fall: {first:.3f} over the first {few} steps, {last:.3f} over the last"
    return ""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--precision", choices=list(_CONFIGS), required=True)
    parser.add_argument("--data", required=True, help="store of frames, or a manifest")
    parser.add_argument("--work", type=Path, required=True, help="folder for the runs")
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--clips", type=int, default=8, help="micro-batch")
    parser.add_argument("--recipe", default="recipes/stoa.yaml")
    parser.add_argument("--kill", action="store_true", help="midway, and resume")
    parser.add_argument("--out", type=Path, help="JSON file to write")
    args, given = parser.parse_known_args()
    args.work.mkdir(parents=True, exist_ok=True)
    line, folder, log = command(args, given), folder_of(args), args.work / f"{args.precision}.log"
    report: dict[str, Any] = {"precision": args.precision, "clips": args.clips, "steps": args.steps}
    if args.kill:
        report["killed after step"] = run_and_kill(line, log, folder, args.steps // 2)
        print(f"killed after step {report['killed after step']}", flush=True)
    report["seconds"] = run_to_the_end(line, log)
    rows = metrics(folder)
    wrong = what_is_wrong(rows, args.steps)
    middle = rows[len(rows) // 2 :]
    report["median of the second half"] = {
        name: statistics.median(row[name] for row in middle)
        for name in middle[-1]
        if all(isinstance(row.get(name), int | float) for row in middle)
    }
    report["first step"] = rows[0]
    if args.out:
        args.out.write_text(json.dumps(report, indent=2) + "\n")
    if wrong:
        sys.exit(wrong)
    print(f"{args.steps} steps in {args.precision}, loss {rows[0]['loss']:.3f} to {rows[-1]['loss']:.3f}")


if __name__ == "__main__":
    main()
