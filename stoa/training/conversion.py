"""A run for other processes: its newest checkpoint, with the facts that a run of another shape asks for."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from stoa.data.sampler import GlobalBatchSampler
from stoa.locks import only_writer
from stoa.training import checkpoint, saving
from stoa.training.deepspeed_config import read_config
from stoa.training.metrics import METRICS_FILE
from stoa.training.resumable import Shape, reshaping


def convert(source: Path, out: Path, *, processes: int, deepspeed_config: str | None) -> list[str]:
    """Write a run that ``processes`` go on with, without the switch that they would need otherwise.

    States do not depend on processes and stages, so files are linked where the file system can; what changes is how the
    run is described. Its log and the weights that validation has chosen come along.

    Args:
        source: a run's folder, or a checkpoint's.
        out: folder of the new run.
        processes: of the new run.
        deepspeed_config: DeepSpeed's JSON of the new run; none is that of the old one.

    Returns:
        lines that say what was done.

    Raises:
        ValueError: there is nothing to go on from, or the clips do not fill a batch of the new shape.
        StorageError: the disk refuses.
    """
    path = _to_go_on_from(source)
    run = checkpoint.read_resumable(path)
    deepspeed = run["deepspeed_config"] if deepspeed_config is None else read_config(deepspeed_config)
    changed = _reshaped(run, deepspeed, processes)
    said = reshaping(run, Shape.of(changed))
    if said is None:
        raise ValueError(f"{path} is of {Shape.of(run)}, which is what is asked for: it needs no conversion")
    with only_writer(out, "--out"):
        if checkpoint.holds_checkpoints(out):
            raise ValueError(f"--out {out} holds checkpoints; choose another folder")
        lines = [f"{path}: {said}"]
        final = saving.copy(path, out / checkpoint.CHECKPOINTS, changed)
        folder = path.parent.parent if path.parent.name == checkpoint.CHECKPOINTS else None
        if folder is not None:
            best = checkpoint.chosen(folder / checkpoint.BEST)
            if best is not None:
                saving.copy(best, out / checkpoint.BEST)
            if (folder / METRICS_FILE).is_file():
                shutil.copyfile(folder / METRICS_FILE, out / METRICS_FILE)
    return [*lines, f"written to {final}; go on with --training.output_dir {out}"]


def _to_go_on_from(source: Path) -> Path:
    if source.name.startswith(checkpoint.PREFIX):
        path: Path | None = source
        if (problem := checkpoint.damage(source)) is not None:
            raise ValueError(f"checkpoint {source} is damaged: {problem}; choose another")
    else:
        path = checkpoint.newest(source / checkpoint.CHECKPOINTS) or checkpoint.newest(source)
    if path is None:
        raise ValueError(f"no checkpoint under {source}; name a run's folder (training.output_dir) or a step-N folder")
    return path


def _reshaped(run: dict[str, Any], deepspeed: dict[str, Any], processes: int) -> dict[str, Any]:
    state = run["sampler"]
    sampler = GlobalBatchSampler(
        state["num_samples"],
        deepspeed["train_micro_batch_size_per_gpu"],
        rank=0,
        world=processes,
        seed=state["seed"],
        fingerprint=state["fingerprint"],
        together=state["together"],
    )
    sampler.load_state_dict(state, reshaped=True)
    return {**run, "deepspeed_config": deepspeed, "sampler": sampler.state_dict()}
