"""The launch line of the README, on a machine without a GPU: the full-size model has to fit."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
from launch import ROOT

MOST_GIB = 9.0


def peak_gib(process: psutil.Process) -> float:
    """The most memory that a process has held until now."""
    status = Path(f"/proc/{process.pid}/status").read_text()
    return int(re.search(r"VmHWM:\s+(\d+) kB", status)[1]) / 2**20


@pytest.mark.slow
@pytest.mark.dist
@pytest.mark.timeout(3600)
@pytest.mark.skipif(psutil.virtual_memory().total < 12 * 2**30, reason="less than 12 GiB of memory")
def test_two_steps_and_the_save_of_the_launch_line_fit_into_nine_gib(tmp_path):
    command = [sys.executable, "-m", "deepspeed.launcher.runner", str(ROOT / "train.py")]
    options = ["--deepspeed_config", "ds_configs/pretrain.json", "--training.max_steps", "2"]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("MALLOC_")}
    with open(tmp_path / "log", "w") as log:
        run = subprocess.Popen(
            [*command, *options], cwd=tmp_path, stdout=log, stderr=log, env=environment | {"CUDA_VISIBLE_DEVICES": ""}
        )
        peaks: dict[int, float] = {}
        while run.poll() is None:
            for process in psutil.Process(run.pid).children(recursive=True):
                try:
                    peaks[process.pid] = max(peaks.get(process.pid, 0.0), peak_gib(process))
                except (OSError, TypeError, psutil.Error):  # it ends meanwhile
                    continue
            time.sleep(0.1)
    said = (tmp_path / "log").read_text()
    assert run.returncode == 0, said
    assert (tmp_path / "runs/stoa/checkpoints/step-00000002/model.safetensors").is_file(), said
    print(f"largest process {max(peaks.values()):.2f} GiB")
    assert 3 < max(peaks.values()) < MOST_GIB
