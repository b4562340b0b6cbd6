"""Everything that needs a GPU, in one go and without a network: make gpu-check.

Needs torch, torchvision, SciPy and pytest beside this tree; what else is missing is listed as not run. Packages that
the machine lacks can be brought in build/gpu-site (make gpu-site). Writes benchmarks/results/<gpu>-<date>.json.
"""

from __future__ import annotations

import datetime
import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
SITE = ROOT / "build" / "gpu-site"
NEEDS_HYPOTHESIS = "tests/ops/test_operator_properties.py"
# Without them the tests would compare the references with themselves.
BUILT = "from stoa.ops import build_info; info = build_info(); print(info); assert info['cuda_toolkit']"


@dataclass(frozen=True)
class Result:
    """``outcome`` is passed, failed or not run; ``note`` the reason or the last line printed."""

    name: str
    outcome: str
    seconds: float
    note: str


def missing(*modules: str) -> str:
    """The first of the modules that cannot be imported, or nothing."""
    return next((module for module in modules if not _importable(module)), "")


def _importable(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:  # of a parent package
        return False


def run(name: str, command: list[str], *, timeout: int, needs: str = "", **environment: str) -> Result:
    """One step; prints what it printed."""
    print(f"\n== {name}", flush=True)
    if needs:
        return Result(name, "not run", 0.0, f"{needs} is missing")
    path = os.pathsep.join([str(ROOT), *([str(SITE)] if SITE.is_dir() else [])])
    started = time.perf_counter()
    process = subprocess.Popen(
        command,
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": path, "PYTHONUNBUFFERED": "1"} | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    late = ""
    try:
        lines, _ = process.communicate(timeout=timeout)
    except subprocess.TimeoutExpired:
        process.kill()
        lines, _ = process.communicate()
        late = f"stopped after {timeout} s"
    print(lines, flush=True)
    printed = [line for line in lines.splitlines() if line.strip()]
    outcome = "passed" if process.returncode == 0 else "failed"
    return Result(name, outcome, time.perf_counter() - started, late or (printed[-1] if printed else "")[:160])


def main() -> None:
    import torch

    if SITE.is_dir():
        sys.path.append(str(SITE))
    if not torch.cuda.is_available():
        raise SystemExit("make gpu-check needs a GPU that torch sees; torch.cuda.is_available() is False here")
    gpu = torch.cuda.get_device_name()
    python, pytest = sys.executable, [sys.executable, "-m", "pytest", "-q", "-c", os.devnull, f"--rootdir={ROOT}"]
    ignored = ["--ignore", NEEDS_HYPOTHESIS] if missing("hypothesis") else []
    sanitizer = shutil.which("compute-sanitizer")
    chosen = ["-k", "cuda and (sizes_of_models or counts or beyond)", "-p", "no:cacheprovider", "tests/ops"]
    with tempfile.TemporaryDirectory() as folder:
        ops, graph, model = (Path(folder) / f"{name}.json" for name in ("ops", "graph", "model"))
        results = [
            run("build", [python, "setup.py", "build_ext", "--inplace"], timeout=240, STOA_FORCE_EXT="1"),
            run("kernels are built", [python, "-c", BUILT], timeout=60),
            run("operator tests", [*pytest, *ignored, "tests/ops"], timeout=240, FAIL_WITHOUT_CUDA="1"),
            run(
                "random sizes",
                [*pytest, NEEDS_HYPOTHESIS],
                timeout=120,
                needs=missing("hypothesis"),
                FAIL_WITHOUT_CUDA="1",
            ),
            run("benchmarks", [python, "benchmarks/ops.py", "--device", "cuda", "--out", str(ops)], timeout=150),
            run(
                "graph",
                [python, "benchmarks/graph.py", "--device", "cuda", "--out", str(graph)],
                timeout=90,
                needs=missing("open_clip"),
            ),
            run(
                "whole model",
                [python, "benchmarks/model_check.py", "--out", str(model)],
                timeout=180,
                needs=missing("open_clip", "safetensors"),
            ),
            run(
                "compute-sanitizer memcheck",
                [sanitizer or "", "--error-exitcode", "1", *pytest, *ignored, *chosen],
                timeout=120,
                needs="" if sanitizer else "compute-sanitizer",
                FAIL_WITHOUT_CUDA="1",
            ),
            run("DeepSpeed", [python, "-c", "import deepspeed"], timeout=60, needs=missing("deepspeed")),
            run("DALI", [python, "-c", "import nvidia.dali"], timeout=60, needs=missing("nvidia.dali")),
        ]
        report = {
            "gpu": gpu,
            "date": datetime.date.today().isoformat(),
            "torch": torch.__version__,
            "cuda": torch.version.cuda,
            "steps": [asdict(result) for result in results],
            "benchmarks": json.loads(ops.read_text()) if ops.is_file() else None,
            "graph": json.loads(graph.read_text()) if graph.is_file() else None,
            "model": json.loads(model.read_text()) if model.is_file() else None,
        }
    name = re.sub(r"[^a-z0-9]+", "-", gpu.lower()).strip("-")
    out = ROOT / "benchmarks" / "results" / f"{name}-{report['date']}.json"
    out.parent.mkdir(exist_ok=True)
    out.write_text(json.dumps(report, indent=2) + "\n")
    print(f"\n{gpu}, torch {torch.__version__}")
    for result in results:
        print(f"{result.name:28} {result.outcome:8} {result.seconds:6.1f} s  {result.note}")
    print(f"written to {out.relative_to(ROOT)}")
    if any(result.outcome == "failed" for result in results):
        sys.exit(1)


if __name__ == "__main__":
    main()
