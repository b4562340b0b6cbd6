"""Checkpoints that are either complete or not there.

A checkpoint is written to ``step-N.tmp``, flushed, given a manifest of SHA-256 sums, and renamed; nothing
older is deleted before that. With several nodes the folder must be on a file system they share.

``step-N/`` holds DeepSpeed's states (to resume), ``model.safetensors`` with ``run.json`` (to use the
model elsewhere) and ``manifest.json``. A run with a validation keeps its best weights in ``best/step-N/``.
"""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from safetensors.torch import load_file, save_file
from torch import nn

from stoa.files import fsync, sha256
from stoa.training import engine as ds

_PREFIX, _TEMPORARY, _DAMAGED, _EARLIER = "step-", ".tmp", ".damaged", ".earlier"
BEST = "best"
"""Folder of a run for the weights that validation has chosen."""

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

    Raises:
        OSError: the disk refuses, or the ranks do not write to one folder. What was there stays.
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
        _check_every_rank_wrote(engine, temporary)
        _complete(temporary, final, model, step, run)
        _delete_old(folder, keep)
    dist.barrier()
    return final


def save_weights(model: nn.Module, folder: Path, step: int, run: dict[str, Any]) -> Path:
    """One rank: write a checkpoint to use, not to resume from, in the place of the one that ``folder`` holds.

    Raises:
        OSError: the disk refuses. What was there stays.
    """
    final = folder / f"{_PREFIX}{step:08d}"
    temporary = folder / (final.name + _TEMPORARY)
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    _complete(temporary, final, model, step, run)
    _delete_old(folder, 1)
    return final


def _complete(temporary: Path, final: Path, model: nn.Module, step: int, run: dict[str, Any]) -> None:
    """Add weights, facts and sums to a folder, and give it its name."""
    weights = {name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()}
    save_file(weights, temporary / _WEIGHTS)
    (temporary / _RUN).write_text(json.dumps(run, indent=2))
    files = sorted(p for p in temporary.rglob("*") if p.is_file())
    sums = {str(p.relative_to(temporary)): sha256(p) for p in files}
    (temporary / _MANIFEST).write_text(json.dumps({"step": step, "sha256": sums}, indent=2))
    for path in [*files, temporary / _MANIFEST, temporary]:
        fsync(path)
    if final.exists():
        shutil.rmtree(final)
    os.rename(temporary, final)
    fsync(final.parent)


def newest(folder: Path) -> Path | None:
    """The newest sound checkpoint; ``None`` where there is no checkpoint at all.

    Damaged ones after it are named and passed over.

    Raises:
        ValueError: there are checkpoints and all are damaged: going on would start from scratch.
    """
    found, problems = _newest_sound(folder)
    if found is None and problems:
        raise ValueError(f"no checkpoint is sound ({'; '.join(problems)}); remove {folder} to start from scratch")
    return found


def chosen(folder: Path) -> Path | None:
    """The checkpoint that validation has chosen, or ``None``. A damaged one is named and set aside."""
    found, problems = _newest_sound(folder)
    if found is None and problems:
        print(f"checkpoint {'; '.join(problems)}; validation chooses anew", flush=True)
        for path in _steps(folder):
            _rename(path, _DAMAGED)
    return found


def _newest_sound(folder: Path) -> tuple[Path | None, list[str]]:
    """The newest sound checkpoint, and what is wrong with those after it, which is said where there is a sound one."""
    problems: list[str] = []
    for path in reversed(_steps(folder)):
        problem = damage(path)
        if problem is None:
            for other in problems:
                print(f"checkpoint {other}; using {path.name}", flush=True)
            return path, problems
        problems.append(f"{path} is damaged: {problem}")
    return None, problems


def set_aside_after(path: Path) -> None:
    """Rename the damaged checkpoints after ``path``, so that they never count as newer ones."""
    for other in _steps(path.parent):
        if other.name > path.name:
            _rename(other, _DAMAGED)


def set_aside(folder: Path) -> None:
    """Rename the checkpoints of a folder, so that none counts any more."""
    for path in _steps(folder):
        _rename(path, _EARLIER)


def _rename(path: Path, suffix: str) -> None:
    aside = path.with_name(path.name + suffix)
    shutil.rmtree(aside, ignore_errors=True)
    path.rename(aside)


def damage(path: Path) -> str | None:
    """What is wrong with a checkpoint folder, or ``None``."""
    try:
        sums = json.loads((path / _MANIFEST).read_text())["sha256"]
    except (OSError, ValueError, KeyError) as error:
        return f"{_MANIFEST}: {error}"
    for name, expected in sums.items():
        if not (path / name).is_file():
            return f"{name} is missing"
        if sha256(path / name) != expected:
            return f"{name} has changed since it was written"
    return None


def read_run(path: Path) -> dict[str, Any]:
    """``run.json`` of a checkpoint."""
    return json.loads((path / _RUN).read_text())


def read_weights(path: Path) -> tuple[dict[str, torch.Tensor], str]:
    """Weights of a checkpoint, on the CPU, and the SHA-256 of their file."""
    return load_file(path / _WEIGHTS), json.loads((path / _MANIFEST).read_text())["sha256"][_WEIGHTS]


def load(engine: Any, path: Path) -> None:
    """All ranks: put the states of a checkpoint (as :func:`newest` found it) into the engine."""
    ds.load_states(engine, path.parent, path.name)


def find(path: str | os.PathLike[str]) -> Path:
    """A checkpoint from what a user names: a checkpoint folder, a folder of checkpoints, or a run's folder, of which it
    is the one that validation has chosen, or else the newest.

    Raises:
        ValueError: there is none, or none is sound; the message names the folder.
    """
    path = Path(path)
    if path.name.startswith(_PREFIX) and path.is_dir():
        problem = damage(path)
        if problem is not None:
            raise ValueError(f"checkpoint {path} is damaged: {problem}; choose another")
        return path
    for folder in (path, path / BEST, path / "checkpoints"):
        found, problems = _newest_sound(folder)
        if found is not None:
            return found
        if problems:
            raise ValueError(f"no checkpoint is sound ({'; '.join(problems)}); name another folder")
    raise ValueError(f"no checkpoint under {path}; name a run's folder (training.output_dir) or a step-N folder")


def _steps(folder: Path) -> list[Path]:
    """Checkpoint folders, sound or not, oldest first."""
    if not folder.is_dir():
        return []
    return sorted(p for p in folder.iterdir() if p.name.startswith(_PREFIX) and not p.suffix)


def _check_every_rank_wrote(engine: Any, temporary: Path) -> None:
    expected = dist.get_world_size() if ds.zero_stage(engine) > 0 else 0
    found = len(list(temporary.glob("*optim_states.pt")))
    if found < expected:
        raise OSError(
            f"{temporary} holds the optimiser states of {found} of {expected} processes; "
            "training.output_dir must be on a file system that all nodes share"
        )


def _delete_old(folder: Path, keep: int) -> None:
    for path in _steps(folder)[:-keep]:
        shutil.rmtree(path, ignore_errors=True)
    for path in folder.glob(f"{_PREFIX}*{_TEMPORARY}"):
        shutil.rmtree(path, ignore_errors=True)
