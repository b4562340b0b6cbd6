"""Full-size models on a machine without a GPU: what they are planned to hold, and no process more."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import psutil
import pytest
from data_sets import built_once
from launch import ROOT

from stoa.config import parse_run
from stoa.planning.imagined import ImaginedRun
from stoa.planning.memory import memory_of
from stoa.planning.states import states
from stoa.synthetic import SynthConfig

MOST_GIB = 9.0
LIBRARIES_GIB = 3.5
"""Python, torch, DeepSpeed and what they read, of a process that trains."""
READER_GIB = 1.5
"""Of a process that reads clips."""
CLIPS = 2
DEEPSPEED = {"train_micro_batch_size_per_gpu": CLIPS, "zero_optimization": {"stage": 1, "reduce_bucket_size": 1 << 20}}
RECIPES = sorted(path.name for path in (ROOT / "recipes").glob("*.yaml") if path.name != "demo.yaml")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.dist,
    pytest.mark.timeout(3600),
    pytest.mark.skipif(psutil.virtual_memory().total < 20 * 2**30, reason="less than 20 GiB of memory"),
]


class Peak(NamedTuple):
    """The most that a process has held, GiB: in all, and of that its own, which it does not share with the one that it
    was forked from; the latter as often as it was looked at."""

    all: float
    own: float


def peaks(command: Sequence[str], folder: Path) -> tuple[list[Peak], str]:
    """Of all of its processes, the largest first; and what was said."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("MALLOC_")}
    found: dict[int, Peak] = {}
    with open(folder / "log", "w") as log:
        given: Mapping[str, str] = environment | {"CUDA_VISIBLE_DEVICES": "", "MASTER_PORT": "0"}
        run = subprocess.Popen(command, cwd=folder, stdout=log, stderr=log, env=given)
        while run.poll() is None:
            try:
                family = [psutil.Process(run.pid), *psutil.Process(run.pid).children(recursive=True)]
            except psutil.Error:
                continue
            for process in family:
                try:
                    before, now = found.get(process.pid, Peak(0.0, 0.0)), _peak(process)
                    found[process.pid] = Peak(*map(max, before, now))
                except (OSError, TypeError, psutil.Error):  # it ends meanwhile
                    continue
            time.sleep(0.2)
    said = (folder / "log").read_text()
    assert run.returncode == 0, said
    return sorted(found.values(), reverse=True), said


def _peak(process: psutil.Process) -> Peak:
    status = Path(f"/proc/{process.pid}/status").read_text()
    own = re.findall(r"^Private_\w+:\s+(\d+) kB", Path(f"/proc/{process.pid}/smaps_rollup").read_text(), re.MULTILINE)
    return Peak(int(re.search(r"VmHWM:\s+(\d+) kB", status)[1]) / 2**20, sum(map(int, own)) / 2**20)


def planned_gib(recipe: str) -> float:
    """Of a step of a training without a GPU, which computes activations again."""
    config = parse_run(["--recipe", f"recipes/{recipe}", "--deepspeed_config", "none"])
    run = ImaginedRun(config.model, config.objectives, config.training, precision="fp32")
    held = states(run.parameters, run.trained, DEEPSPEED, world=1)
    step = run.step(CLIPS, world=1, recomputed=run.recomputable()[-1])
    return memory_of(held, step.before, step.after).total / 2**30


@pytest.fixture(scope="module")
def clips(tmp_path_factory) -> Path:
    config = SynthConfig(size=224, num_train=8, num_val=2, num_test=2, num_galleries=0)
    return built_once(tmp_path_factory, "of_full_size", config)


def test_two_steps_and_the_save_of_the_launch_line_fit_into_nine_gib(tmp_path):
    command = [sys.executable, "-m", "deepspeed.launcher.runner", str(ROOT / "train.py")]
    most, said = peaks(
        [*command, "--deepspeed_config", "ds_configs/pretrain.json", "--training.max_steps", "2"], tmp_path
    )
    assert (tmp_path / "runs/stoa/checkpoints/step-00000002/model.safetensors").is_file(), said
    print(f"largest process {most[0].all:.2f} GiB")
    assert 3 < most[0].all < MOST_GIB


@pytest.mark.parametrize("recipe", RECIPES)
def test_a_recipe_trains_and_is_evaluated_in_what_is_planned(clips, tmp_path, recipe):
    (tmp_path / "ds.json").write_text(json.dumps(DEEPSPEED))
    data = ["--data.manifest", str(clips / "manifest.jsonl"), "--data.num_workers", "1"]
    training = ["--training.max_steps", "2", "--training.optim.warmup_steps", "1", "--training.output_dir", "run"]
    options = ["--deepspeed_config", "ds.json", "--recipe", str(ROOT / "recipes" / recipe), *data, *training]
    planned = planned_gib(recipe)
    most, said = peaks([sys.executable, str(ROOT / "train.py"), *options], tmp_path)
    readers = [peak.own for peak in most[1:]]
    print(f"{recipe}: planned {planned:.2f} GiB, {most[0].all:.2f} measured, of readers {max(readers):.2f}")
    # Under ZeRO on a CPU DeepSpeed holds the weights once more than the plan for a GPU has them.
    weights = (tmp_path / "run/checkpoints/step-00000002/model.safetensors").stat().st_size / 2**30
    assert planned < most[0].all < planned + weights + LIBRARIES_GIB, said
    assert max(readers) < READER_GIB, most

    evaluating = ["--manifest", str(clips / "manifest.jsonl"), "--num_workers", "1", "--batch_size", "2"]
    most, _ = peaks([sys.executable, "-m", "stoa.cli", "evaluate", "--run", "run", *evaluating], tmp_path)
    print(f"{recipe}: evaluation {most[0].all:.2f} GiB, weights {weights:.2f}")
    assert most[0].all < 3 * weights + LIBRARIES_GIB
