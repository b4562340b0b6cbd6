"""Runs of train.py as processes of their own."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent


def start_training(
    data_set: Path,
    folder: Path,
    output: Path,
    *arguments: str,
    manifest: Path | None = None,
    processes: int = 1,
    bf16: bool = False,
    stage: int = 1,
    program: tuple[str, ...] = ("train.py",),
) -> subprocess.Popen:
    """Start train.py with a tiny model on global batches of 8; further arguments override. DeepSpeed's JSON goes to
    ``folder``; of one process, what runs may be another ``program`` with the arguments of train.py after its own."""
    ds_config = folder / f"ds{processes}-{stage}{'-bf16' if bf16 else ''}.json"
    values = {
        "train_micro_batch_size_per_gpu": 8 // processes,
        "gradient_clipping": 1.0,
        "zero_optimization": {"stage": stage},
        "bf16": {"enabled": bf16},
    }
    ds_config.write_text(json.dumps(values))
    launcher = [sys.executable, *program] if processes == 1 else ["cluster/node.sh"]
    command = [
        *(*launcher, "--deepspeed_config", str(ds_config)),
        *("--recipe", "recipes/demo.yaml"),
        *("--data.manifest", str(manifest or data_set / "manifest.jsonl")),
        *("--training.output_dir", str(output), "--model.backbone.name", "stoa-tiny"),
        *("--model.fusion.layers", "2", "--model.num_frames", "3", "--training.log_every", "1"),
        *("--training.max_steps", "10", "--training.save_every", "5", "--training.optim.warmup_steps", "2"),
        *("--training.tensorboard", "false", "--data.num_workers", "0", *arguments),
    ]
    settings = {**os.environ, "NPROC_PER_NODE": str(processes), "MASTER_PORT": str(free_port())}
    return subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=settings,
        cwd=ROOT,
        start_new_session=True,
    )


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def finish(process: subprocess.Popen, *, code: int = 0) -> tuple[str, str]:
    """Output and errors of a run that must end with ``code``."""
    out, err = process.communicate(timeout=200)
    assert process.returncode == code, f"exit {process.returncode}\n{out[-2000:]}\n{err[-3000:]}"
    return out, err
