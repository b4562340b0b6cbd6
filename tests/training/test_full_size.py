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
LIBRARIES_GIB = 2.5
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


def peaks(command: Sequence[str], folder: Path) -> tuple[list[float], str]:
    """The most that each of its processes has held until it ends, GiB, the largest first; and what was said."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("MALLOC_")}
    found: dict[int, float] = {}
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
                    found[process.pid] = max(found.get(process.pid, 0.0), _peak_gib(process))
                except (OSError, TypeError, psutil.Error):  # it ends meanwhile
                    continue
            time.sleep(0.1)
    said = (folder / "log").read_text()
    assert run.returncode == 0, said
    return sorted(found.values(), reverse=True), said


def _peak_gib(process: psutil.Process) -> float:
    status = Path(f"/proc/{process.pid}/status").read_text()
    return int(re.search(r"VmHWM:\s+(\d+) kB", status)[1]) / 2**20


def planned_gib(recipe: str) -> float:
    """Of a step of a training without a GPU, which computes activations again."""
    config = parse_run(["--recipe", f"recipes/{recipe}", "--deepspeed_config", "none"])
    run = ImaginedRun(config.model, config.objectives, config.training, precision="fp32")
    held = states(run.parameters, run.trained, DEEPSPEED, world=1)
    step = run.step(CLIPS, world=1, recomputed=run.recomputable()[-1])
    return memory_of(held, step.before, step.after).total / 2**30


@pytest.fixture(scope="module")
def clips(tmp_path_factory) -> Path:
    config = SynthConfig(size=224, num_train=8, num_val=2, num_test=8, num_galleries=2)
    return built_once(tmp_path_factory, "of_full_size", config)


def test_two_steps_and_the_save_of_the_launch_line_fit_into_nine_gib(tmp_path):
    command = [sys.executable, "-m", "deepspeed.launcher.runner", str(ROOT / "train.py")]
    most, said = peaks(
        [*command, "--deepspeed_config", "ds_configs/pretrain.json", "--training.max_steps", "2"], tmp_path
    )
    assert (tmp_path / "runs/stoa/checkpoints/step-00000002/model.safetensors").is_file(), said
    print(f"largest process {most[0]:.2f} GiB")
    assert 3 < most[0] < MOST_GIB


@pytest.mark.parametrize("recipe", RECIPES)
def test_a_recipe_trains_and_is_evaluated_in_what_is_planned(clips, tmp_path, recipe):
    (tmp_path / "ds.json").write_text(json.dumps(DEEPSPEED))
    data = ["--data.manifest", str(clips / "manifest.jsonl"), "--data.num_workers", "1"]
    training = ["--training.max_steps", "2", "--training.optim.warmup_steps", "1", "--training.output_dir", "run"]
    options = ["--deepspeed_config", "ds.json", "--recipe", str(ROOT / "recipes" / recipe), *data, *training]
    planned = planned_gib(recipe)
    most, said = peaks([sys.executable, str(ROOT / "train.py"), *options], tmp_path)
    print(f"{recipe}: planned {planned:.2f} GiB, {most[0]:.2f} measured, then {most[1]:.2f}")
    # Under ZeRO on a CPU DeepSpeed holds the weights once more than the plan for a GPU has them.
    weights = (tmp_path / "run/checkpoints/step-00000002/model.safetensors").stat().st_size / 2**30
    assert planned < most[0] < planned + weights + LIBRARIES_GIB, said
    # A loader is forked, and counts what it shares with the training at that time.
    assert all(gib < READER_GIB + LIBRARIES_GIB for gib in most[1:]), most

    evaluating = ["--manifest", str(clips / "manifest.jsonl"), "--num_workers", "1", "--batch_size", "2"]
    most, _ = peaks([sys.executable, "-m", "stoa.cli", "evaluate", "--run", "run", *evaluating], tmp_path)
    print(f"{recipe}: evaluation {most[0]:.2f} GiB, weights {weights:.2f}")
    assert most[0] < 3 * weights + LIBRARIES_GIB
