"""What loading costs a step of the demo: wait for data, CPU time of the loader, step time against cached clips.

    python benchmarks/loading.py --out benchmarks/results/loading.json

Trains `recipes/demo.yaml` twice with two loader processes on Moving Shapes as `make demo` makes them: on 2,000 clips
that are decoded whenever they are met, and on 256 that every loader process holds decoded in memory by then.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import psutil

from stoa.synthetic import SynthConfig, build_data_set

STEPS, FIRST = 160, 80  # the first half is for starting, and for filling the cache


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, help="JSON file to write")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        results = {
            "decoded": trained(Path(name) / "decoded", clips=2000, cache_gib=0.0),
            "cached": trained(Path(name) / "cached", clips=256, cache_gib=1.0),
        }
    results["step time, decoded over cached"] = round(
        results["decoded"]["seconds_per_step"] / results["cached"]["seconds_per_step"], 3
    )
    print(json.dumps(results, indent=2))
    if args.out:
        args.out.write_text(json.dumps(results, indent=2) + "\n")


def trained(folder: Path, *, clips: int, cache_gib: float) -> dict[str, float]:
    """Train, and return the share of time waited, and seconds and the loader's CPU seconds of a step."""
    config = SynthConfig(num_train=clips, num_val=1, num_test=1, num_galleries=1)
    build_data_set(config, folder / "data", workers=2, say=lambda line: None)
    process = subprocess.Popen(
        [
            *(sys.executable, "train.py", "--deepspeed_config", "ds_configs/demo.json"),
            *("--recipe", "recipes/demo.yaml", "--data.manifest", str(folder / "data" / "manifest.jsonl")),
            *("--training.output_dir", str(folder / "run"), "--training.max_steps", str(STEPS)),
            *("--training.save_every", str(STEPS), "--training.log_every", "20"),
            *("--data.num_workers", "2", "--data.cache_gib", str(cache_gib)),
        ],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    watched = psutil.Process(process.pid)
    before = after = 0.0
    assert process.stdout is not None
    for line in process.stdout:
        if line.startswith(f"step {FIRST}/"):
            before = loader_seconds(watched)
        elif line.startswith(f"step {STEPS}/"):
            after = loader_seconds(watched)
    if process.wait():
        raise SystemExit(f"training ended with status {process.returncode}")
    lines = (folder / "run" / "metrics.jsonl").read_text().splitlines()
    records = [record for record in map(json.loads, lines) if record["step"] > FIRST]
    batch = json.loads(Path("ds_configs/demo.json").read_text())["train_micro_batch_size_per_gpu"]
    return {
        "data_wait_share": round(statistics.mean(record["data_wait_share"] for record in records), 4),
        "seconds_per_step": round(statistics.mean(batch / record["samples_per_second"] for record in records), 4),
        "loader_cpu_seconds_per_step": round((after - before) / (STEPS - FIRST), 4),
    }


def loader_seconds(process: psutil.Process) -> float:
    """CPU time of everything that a training process has started, all of it for loading."""
    return sum(sum(child.cpu_times()[:2]) for child in process.children(recursive=True))


if __name__ == "__main__":
    main()
