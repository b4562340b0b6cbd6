"""Speed and peak memory of `stoa prepare` on Moving Shapes of two sizes.

    python benchmarks/prepare.py --out benchmarks/results/prepare.json

Memory is the proportional set size of all its processes together (a page that n of them share counts 1/n for each),
sampled five times a second.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil

from stoa.synthetic import SynthConfig, build_data_set


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clips", nargs="+", type=int, default=[1000, 10_000])
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--stores", nargs="+", default=["frames"])
    parser.add_argument("--spacy", default="null", help="pipeline that tags the captions")
    parser.add_argument("--out", type=Path, help="JSON file to write")
    args = parser.parse_args()
    results = {}
    with tempfile.TemporaryDirectory() as name:
        for clips in args.clips:
            folder = Path(name) / str(clips)
            small = {"num_val": 1, "num_test": 1, "num_galleries": 1}
            config = SynthConfig(num_train=clips - 2, size=96, seconds=2.0, **small)
            build_data_set(config, folder, workers=args.workers, say=lambda line: None)
            results[f"{clips} clips"] = measured(
                [
                    *(sys.executable, "-m", "stoa.cli", "prepare", "--annotations", str(folder / "manifest.jsonl")),
                    *("--videos", str(folder), "--out", str(folder / "out"), "--workers", str(args.workers)),
                    *("--spacy", args.spacy, "--stores", json.dumps(args.stores)),
                    *("--store.clips_per_shard", "250"),  # work for every process, however few the clips
                ],
                clips,
            )
            print(f"{clips} clips: {results[f'{clips} clips']}", flush=True)
    if args.out:
        args.out.write_text(json.dumps(results, indent=2) + "\n")


def measured(command: list[str], clips: int) -> dict[str, float]:
    """Run it; peak memory in MiB and clips per second, starting the processes included."""
    begun, peak = time.perf_counter(), 0
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    watched = psutil.Process(process.pid)
    while process.poll() is None:
        peak = max(peak, proportional(watched))
        time.sleep(0.2)
    if process.returncode:
        raise SystemExit(f"{' '.join(command)} ended with status {process.returncode}")
    return {"peak_mib": round(peak / 2**20), "clips_per_second": round(clips / (time.perf_counter() - begun), 1)}


def proportional(process: psutil.Process) -> int:
    total = 0
    try:
        everyone = [process, *process.children(recursive=True)]
    except psutil.NoSuchProcess:
        return 0
    for one in everyone:
        try:
            total += one.memory_full_info().pss
        except (psutil.NoSuchProcess, psutil.AccessDenied, psutil.ZombieProcess):
            continue
    return total


if __name__ == "__main__":
    main()
