"""Everything that needs a GPU, without a network: make gpu-check.

    python benchmarks/gpu_check.py --out build/gpu-check               all parts, and the summary
    python benchmarks/gpu_check.py --out build/gpu-check --part 2      one of them, in under nine minutes
    python benchmarks/gpu_check.py --out build/gpu-check --summary     of the results there, on any machine

1 build, values, tests and timings of the operators   2 compute-sanitizer   3 times and a profile of the step
4 trainings, one killed and resumed, and an evaluation   5 the graph, the whole model, optional packages

Needs torch, torchvision, SciPy and pytest beside this tree; what else a step lacks is told and the step not run.
Packages that the machine has not, and the data of part 4, can be brought in build/gpu-site (make gpu-site). Every step
writes its result as it ends, so that what is stopped keeps those before; a part that is run again replaces its own.
"""

from __future__ import annotations

import argparse
import signal
import sys
import tempfile
from pathlib import Path
from typing import Any

from gpu.carried import SITE, packages
from gpu.parts import Place, parts
from gpu.steps import ROOT, run
from gpu.summary import read_results, table, write_report

RESULTS = ROOT / "benchmarks" / "results"
NUMBERS = (1, 2, 3, 4, 5)


def gpu_facts() -> dict[str, Any]:
    """Of this machine, for every result.

    Raises:
        ValueError: torch sees no GPU.
    """
    import torch

    if not torch.cuda.is_available():
        raise ValueError("make gpu-check needs a GPU that torch sees; torch.cuda.is_available() is False here")
    return {"gpu": torch.cuda.get_device_name(), "torch": torch.__version__, "cuda": torch.version.cuda}


def run_part(number: int, place: Place, facts: dict[str, Any]) -> list[dict[str, Any]]:
    """Its steps, in turn; without the build there are no others."""
    results: list[dict[str, Any]] = []
    for step in parts(place)[number]:
        why_not = "" if not results or results[0]["outcome"] == "passed" else "the build failed"
        results.append(run(number, step, place.out, why_not=why_not, facts=facts))
    return results


def check(numbers: tuple[int, ...], out: Path) -> list[dict[str, Any]]:
    """The results of some parts, which are in ``out`` too."""
    facts = gpu_facts()
    out.mkdir(parents=True, exist_ok=True)
    with packages(), tempfile.TemporaryDirectory(prefix="gpu-check-") as work:
        place = Place(out, Path(work), SITE / "data" / "frames")
        return [result for number in numbers for result in run_part(number, place, facts)]


def stop(*_: object) -> None:
    sys.exit("stopped")  # which ends the step that runs


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=ROOT / "build" / "gpu-check", help="folder of the results")
    parser.add_argument("--part", type=int, choices=NUMBERS, help="default: all, and the summary")
    parser.add_argument("--summary", action="store_true", help="write benchmarks/results/<gpu>-<date>.json")
    args = parser.parse_args()
    signal.signal(signal.SIGTERM, stop)
    out = args.out.resolve()
    try:
        results = [] if args.summary else check((args.part,) if args.part else NUMBERS, out)
        if args.summary or not args.part:
            results = read_results(out)
    except ValueError as error:
        sys.exit(str(error))
    print(f"\n{table(results)}")
    if args.summary or not args.part:
        print(f"written to {write_report(results, RESULTS)}")
    if any(result["outcome"] == "failed" for result in results):
        sys.exit(1)


if __name__ == "__main__":
    main()
