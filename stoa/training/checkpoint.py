"""Checkpoints that are either complete or not there.

A checkpoint is written to ``step-N.tmp``, flushed, given a manifest of SHA-256 sums, and renamed; nothing
older is deleted before that. With several nodes the folder must be on a file system they share.

``step-N/`` holds DeepSpeed's states (to resume), ``model.safetensors`` with ``run.json`` (to use the
model elsewhere) and ``manifest.json``.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from safetensors.torch import load_file, save_file
from torch import nn

from stoa.training import engine as ds

_PREFIX, _TEMPORARY = "step-", ".tmp"
_MANIFEST, _RUN, _WEIGHTS = "manifest.json", "run.json", "model.safetensors"


def save(engine: Any, model: nn.Module, folder: Path, step: int, run: dict[str, Any], *, keep: int) -> Path:
    """All ranks: write a checkpoint and then delete all but the newest ``keep``.

    Args:
        engine: of DeepSpeed.
        model: whose weights go to ``model.safetensors``.
        folder: of the run's checkpoints.
        step: optimiser steps done.
        run: JSON-able facts (configuration, sampler state, versions) for ``run.json``.
        keep: complete checkpoints to keep.

    Returns:
        the folder of the new checkpoint.
    """
    final = folder / f"{_PREFIX}{step:08d}"
    temporary = folder / (final.name + _TEMPORARY)
    is_first = dist.get_rank() == 0
    if is_first:
        folder.mkdir(parents=True, exist_ok=True)
        shutil.rmtree(temporary, ignore_errors=True)
    dist.barrier()
    ds.save_states(engine, folder, temporary.name)
    dist.barrier()
    if is_first:
        weights = {name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()}
        save_file(weights, temporary / _WEIGHTS)
        (temporary / _RUN).write_text(json.dumps(run, indent=2))
        files = sorted(p for p in temporary.rglob("*") if p.is_file())
        sums = {str(p.relative_to(temporary)): _sha256(p) for p in files}
        (temporary / _MANIFEST).write_text(json.dumps({"step": step, "sha256": sums}, indent=2))
        for path in [*files, temporary / _MANIFEST, temporary]:
            _fsync(path)
        if final.exists():
            shutil.rmtree(final)
        os.rename(temporary, final)
        _fsync(folder)
        _delete_old(folder, keep)
    dist.barrier()
    return final


def newest(folder: Path) -> Path | None:
    """The newest checkpoint that is complete and unharmed; damaged ones are passed over with a warning."""
    for path in reversed(_complete(folder)):
        problem = damage(path)
        if problem is None:
            return path
        print(f"checkpoint {path} is damaged ({problem}); using the one before", flush=True)
    return None


def damage(path: Path) -> str | None:
    """What is wrong with a checkpoint folder, or ``None``."""
    try:
        sums = json.loads((path / _MANIFEST).read_text())["sha256"]
    except (OSError, ValueError, KeyError) as error:
        return f"{_MANIFEST}: {error}"
    for name, expected in sums.items():
        if not (path / name).is_file():
            return f"{name} is missing"
        if _sha256(path / name) != expected:
            return f"{name} has changed since it was written"
    return None


def read_run(path: Path) -> dict[str, Any]:
    """``run.json`` of a checkpoint."""
    return json.loads((path / _RUN).read_text())


def read_weights(path: Path) -> dict[str, torch.Tensor]:
    """Weights of a checkpoint, on the CPU."""
    return load_file(path / _WEIGHTS)


def load(engine: Any, path: Path) -> None:
    """All ranks: put the states of a checkpoint (as :func:`newest` found it) into the engine."""
    ds.load_states(engine, path.parent, path.name)


def find(path: str | os.PathLike[str]) -> Path:
    """A checkpoint from what a user names: a checkpoint folder, a folder of checkpoints, or a run's folder.

    Raises:
        ValueError: there is none; the message names the folder.
    """
    path = Path(path)
    if (path / _MANIFEST).is_file():
        problem = damage(path)
        if problem is not None:
            raise ValueError(f"checkpoint {path} is damaged: {problem}; choose another")
        return path
    for folder in (path, path / "checkpoints"):
        found = newest(folder)
        if found is not None:
            return found
    raise ValueError(
        f"no complete checkpoint under {path}; name a run's folder (training.output_dir) or a step-N folder"
    )


def _complete(folder: Path) -> list[Path]:
    if not folder.is_dir():
        return []
    names = (p for p in folder.iterdir() if p.name.startswith(_PREFIX) and not p.name.endswith(_TEMPORARY))
    return sorted(p for p in names if (p / _MANIFEST).is_file())


def _delete_old(folder: Path, keep: int) -> None:
    for path in _complete(folder)[:-keep]:
        shutil.rmtree(path, ignore_errors=True)
    for path in folder.glob(f"{_PREFIX}*{_TEMPORARY}"):
        shutil.rmtree(path, ignore_errors=True)


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()


def _fsync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
