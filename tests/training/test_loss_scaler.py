"""DeepSpeed's loss scaler meets an infinite gradient by skipping the step and halving the scale."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch

WORKER = Path(__file__).parent / "loss_scaler_worker.py"


@pytest.mark.dist
def test_planted_infinities_skip_the_step(tmp_path):
    out = tmp_path / "out.pt"
    command = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc_per_node=1",
        str(WORKER),
        str(out),
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=240, cwd=WORKER.parents[2])
    assert done.returncode == 0, done.stderr[-3000:]
    result = torch.load(out, weights_only=True)
    assert result["fp16"]
    assert result["dtype"] == "torch.float16"
    record = result["record"]
    assert [r["moved"] for r in record] == [step not in {2, 3, 5} for step in range(8)]
    assert [r["skipped"] for r in record] == [0, 0, 1, 2, 2, 3, 3, 3]
    scales = [r["scale"] for r in record]
    for step in (2, 3, 5):
        assert scales[step] == scales[step - 1] / 2
    assert max(scales[6:]) > scales[5] or scales[7] == scales[5]
    assert all(r["loss"] == r["loss"] and abs(r["loss"]) < 100 for r in record)
