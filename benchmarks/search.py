"""How long it takes from a folder of videos to the first hit, and a question to a large index.

    python benchmarks/search.py --out benchmarks/results/search-cpu.json

A hundred clips of Moving Shapes are indexed with the model that comes with the package, and asked for a sentence, by
the commands, each with its start. An index of 100,000 windows of 512 random numbers, in memory, is asked for the five
windows nearest to a vector, as ``stoa search`` and ``stoa serve`` ask it; sorting and folding is part of it.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np

from stoa.search.index import FileState, Vectors
from stoa.search.query import Searcher
from stoa.synthetic import SynthConfig, build_data_set

WINDOWS, WIDTH, FILES, ROUNDS = 100_000, 512, 1000, 30


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, help="JSON file to write")
    args = parser.parse_args()
    results = {"seconds": first_hit(), "question to 100,000 windows, ms": question()}
    print(json.dumps(results, indent=2))
    if args.out:
        args.out.write_text(json.dumps(results, indent=2) + "\n")


def first_hit() -> dict[str, float]:
    config = SynthConfig(
        num_train=0, num_val=0, num_test=100, num_galleries=0, families=["horizontal", "vertical", "size", "light"]
    )
    with tempfile.TemporaryDirectory() as folder:
        build_data_set(config, Path(folder) / "set", say=lambda line: None)
        videos, boxes = (str(Path(folder) / "set" / name / "test") for name in ("videos", "detections"))
        return {
            "stoa index, 100 clips": seconds("index", videos, "--detections", boxes),
            "stoa search": seconds("search", "a red square moves left", "--index", videos),
        }


def seconds(*words: str) -> float:
    begun = time.perf_counter()
    subprocess.run([sys.executable, "-m", "stoa.cli", *words], check=True, stdout=subprocess.DEVNULL)
    return round(time.perf_counter() - begun, 1)


def question() -> dict[str, float]:
    generator = np.random.default_rng(0)
    vectors_Wd = generator.standard_normal((WINDOWS, WIDTH), dtype=np.float32)
    vectors_Wd /= np.linalg.norm(vectors_Wd, axis=1, keepdims=True)
    starts_W = np.arange(WINDOWS, dtype=np.float64) // FILES * 5
    searcher = Searcher.__new__(Searcher)
    searcher.vectors = Vectors(np.arange(WINDOWS) % FILES, np.stack([starts_W, starts_W + 10], axis=1), vectors_Wd)
    searcher.files = {number: FileState(number, f"{number}.mp4", 0, 0, 0, 0, "") for number in range(FILES)}
    searcher.index = SimpleNamespace(threshold=0.0)
    times = []
    for _ in range(ROUNDS):
        query_d = vectors_Wd[generator.integers(WINDOWS)] + 0.1 * generator.standard_normal(WIDTH, dtype=np.float32)
        begun = time.perf_counter()
        searcher._nearest(query_d, 10)
        times.append(1000 * (time.perf_counter() - begun))
    return {"median": round(statistics.median(times), 1), "highest": round(max(times), 1)}


if __name__ == "__main__":
    main()
