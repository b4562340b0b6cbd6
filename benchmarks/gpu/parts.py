"""The parts of the check: each is one command of under nine minutes, and may be run on a machine of its own."""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass
from pathlib import Path

from gpu.steps import Step

SECONDS_OF_A_PART = 9 * 60
FILES_OF_A_PART = 8
"""At most: of what a command leaves behind, some machines give back no more."""

# Without them the tests would compare the references with themselves.
_BUILT = "from stoa.ops import build_info; info = build_info(); print(info); assert info['cuda_toolkit']"
_MODEL = ("open_clip", "safetensors")
_TRAINING = ("deepspeed", "jsonargparse", "av", *_MODEL)


@dataclass(frozen=True)
class Place:
    """
    Attributes:
        out: folder of the results.
        work: folder for what the steps make, in their turn: reports, runs.
        data: store of frames to train on.
        steps: of each training.
    """

    out: Path
    work: Path
    data: Path
    steps: int = 200


def parts(place: Place) -> dict[int, list[Step]]:
    """By number. Every part begins with the build, which takes a moment where it is done."""
    made = {1: _operators(place), 2: _sanitizer(), 3: _step(place), 4: _training(place), 5: _models(place)}
    return {number: [_build(), *steps] for number, steps in made.items()}


def _script(name: str, *arguments: object) -> tuple[str, ...]:
    return (sys.executable, "-m", f"gpu.{name}", *(str(argument) for argument in arguments))


def _build() -> Step:
    command = (sys.executable, "setup.py", "build_ext", "--inplace")
    # The memory that a fresh virtual machine tells of may be a small part of what it can have.
    jobs = os.environ.get("MAX_JOBS", str(min(16, len(os.sched_getaffinity(0)))))
    return Step("build", command, 180, environment={"STOA_FORCE_EXT": "1", "MAX_JOBS": jobs})


def _operators(place: Place) -> list[Step]:
    timings = place.work / "timings.json"
    # No configuration of pytest: it asks for plugins.
    pytest = (
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-c",
        os.devnull,
        "-p",
        "no:cacheprovider",
        "--disable-warnings",
        "-k",
        "cuda or gpu",
    )
    return [
        Step("kernels are built", (sys.executable, "-c", _BUILT), 30),
        Step("values at the sizes of models", _script("production"), 70),
        Step("operator tests", (*pytest, "--rootdir=.", "tests/ops"), 140, environment={"FAIL_WITHOUT_CUDA": "1"}),
        Step("timings", _script("timings", "--out", timings), 110, report=timings),
    ]


def _sanitizer() -> list[Step]:
    return [
        Step(
            tool,
            ("compute-sanitizer", "--tool", tool, "--error-exitcode", "1", *_script("exercise")),
            limit,
            tools=("compute-sanitizer",),
            environment={"PYTORCH_NO_CUDA_MEMORY_CACHING": "1"},  # a pool would hide what is read beyond a tensor
        )
        for tool, limit in (("memcheck", 165), ("racecheck", 185))
    ]


def _step(place: Place) -> list[Step]:
    eager, compiled, profile = (place.work / f"{name}.json" for name in ("eager", "compiled", "profile"))
    needs, trace = (*_MODEL, "jsonargparse"), place.out / "3-trace.json.gz"
    one, limit = ("--clips", 64, "--checkpointing"), ("--limit", 140)
    return [
        Step("step", _script("step_times", "--clips", 8, 64, 128, "--out", eager), 120, needs, report=eager),
        Step(
            "profile",
            _script("step_times", *one, "on", "--profile", trace, "--out", profile),
            60,
            needs,
            report=profile,
        ),
        Step(
            "compiled step",
            _script("step_times", *one, "off", "--compile", *limit, "--out", compiled),
            175,
            needs,
            report=compiled,
        ),
    ]


def _training(place: Place) -> list[Step]:
    fp16, bf16, scores = (place.work / f"{name}.json" for name in ("fp16-report", "bf16-report", "scores"))
    common = ("--data", place.data, "--work", place.work, "--steps", place.steps)
    evaluate = ("evaluate", "--run", place.work / "bf16", "--manifest", place.data, "--task", "retrieval")
    return [
        Step(
            "training in fp16",
            _script("training", "--precision", "fp16", *common, "--out", fp16),
            120,
            _TRAINING,
            files=(place.data,),
            report=fp16,
        ),
        Step(
            "training in bf16, killed and resumed",
            _script("training", "--precision", "bf16", "--kill", *common, "--out", bf16),
            160,
            _TRAINING,
            files=(place.data,),
            report=bf16,
        ),
        Step(
            "evaluation",
            (sys.executable, "-m", "stoa.cli", *(str(word) for word in (*evaluate, "--out", scores))),
            75,
            _TRAINING,
            files=(place.data,),
            report=scores,
        ),
    ]


def _models(place: Place) -> list[Step]:
    graph, model, found = (place.work / f"{name}.json" for name in ("graph", "model", "imports"))
    benchmarks = (sys.executable, "benchmarks/graph.py"), (sys.executable, "benchmarks/model_check.py")
    return [
        Step("packages", _script("imports", "--out", found), 60, report=found),
        Step("graph", (*benchmarks[0], "--device", "cuda", "--out", str(graph)), 100, _MODEL, report=graph),
        Step("whole model", (*benchmarks[1], "--out", str(model)), 190, _MODEL, report=model),
    ]
