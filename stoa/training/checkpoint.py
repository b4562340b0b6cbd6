"""Checkpoints that are either complete or not there.

A checkpoint is written to a folder of a temporary name, flushed, given a manifest of SHA-256 sums, and renamed;
nothing older is deleted before that. With several nodes the folder must be on a file system they share. Who saves holds
the lock of the run's folder (:mod:`stoa.locks`); who reads does not.

``step-N/`` holds DeepSpeed's states (to resume), ``model.safetensors`` with ``run.json`` (to use the
model elsewhere) and ``manifest.json``. A run with a validation keeps its best weights in ``best/step-N/``.
"""

from __future__ import annotations

import errno
import json
import os
import shutil
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from safetensors.torch import load_file, save_file
from torch import nn

from stoa.files import TEMPORARY, bytes_of, free_bytes, fsync, in_units, replacing, sha256, storage_error, writing
from stoa.objectives.gather import from_first_rank
from stoa.training import engine as ds

T = TypeVar("T")
_PREFIX, _DAMAGED, _EARLIER = "step-", ".damaged", ".earlier"
BEST, CHECKPOINTS = "best", "checkpoints"
"""Folders of a run for the weights that validation has chosen, and for all that a run is resumed from."""

_MANIFEST, _RUN, _WEIGHTS = "manifest.json", "run.json", "model.safetensors"
_TRIES = 5


class Gone(ValueError):
    """A checkpoint that was there has been deleted: a training keeps so many."""


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
        StorageError: the disk refuses, or has not the space; names the last good checkpoint. What was there stays.
        OSError: the ranks do not write to one folder.
    """
    final = folder / f"{_PREFIX}{step:08d}"
    needed = bytes_needed(engine, model, folder)
    temporary = from_first_rank(lambda: _begin(final, needed))
    is_first = dist.get_rank() == 0
    weights = ds.whole_weights(model)
    dist.barrier()
    try:
        with writing(final, needed=needed, then=_what_is_left(folder)):
            ds.save_states(engine, folder, temporary.name)
        dist.barrier()
        if is_first:
            _check_every_rank_wrote(engine, temporary)
            with writing(final, needed=needed, then=_what_is_left(folder)):
                _complete(temporary, final, weights, step, run)
            _delete_old(folder, keep)
    except BaseException:
        if is_first:
            shutil.rmtree(temporary, ignore_errors=True)  # others may want the space
        raise
    dist.barrier()
    return final


def save_weights(weights: dict[str, torch.Tensor], folder: Path, step: int, run: dict[str, Any]) -> Path:
    """One rank: write a checkpoint to use, not to resume from, in the place of the one that ``folder`` holds.

    Raises:
        StorageError: the disk refuses. What was there stays.
    """
    final = folder / f"{_PREFIX}{step:08d}"
    temporary = _begin(final, sum(tensor.nbytes for tensor in weights.values()))
    try:
        with writing(final, then=_what_is_left(folder)):
            temporary.mkdir()
            _complete(temporary, final, weights, step, run)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    _delete_old(folder, 1)
    return final


def bytes_needed(engine: Any, model: nn.Module, folder: Path) -> int:
    """What a checkpoint takes: as the newest does, or else by an estimate: the weights, twice, and AdamW's states."""
    there = [path for path in _steps(folder) if (path / _MANIFEST).is_file()]
    if there:
        return bytes_of(there[-1])
    trained = sum(ds.elements(weight) for weight in model.parameters() if weight.requires_grad)
    copy = 4 if ds.zero_stage(engine) or ds.uses_fp16(engine) else 0  # of the weights, in full precision
    return 2 * _bytes_of_weights(model) + (8 + copy) * trained


def require_room(engine: Any, model: nn.Module, folder: Path, keep: int) -> str | None:
    """One rank, before the training: find out whether its checkpoints will find room.

    Returns:
        a line that says so, where one more has room and the ``keep`` and one being written, which there will be at a
        time, have not.

    Raises:
        StorageError: not one more has.
    """
    needed, free = bytes_needed(engine, model, folder), free_bytes(folder)
    if free < needed:
        raise _no_room(folder, needed)
    missing = max(1, keep + 1 - len(_steps(folder)))
    if free >= missing * needed:
        return None
    return (
        f"{folder} has room for {free // needed} more checkpoint(s) of {in_units(needed)} ({in_units(free)} free), and "
        f"training.keep_checkpoints {keep} means {missing} more at a time; make room or lower it"
    )


def _begin(final: Path, needed: int) -> Path:
    """A folder for the name ``final``, emptied of what killed runs have left; the temporary name to write to."""
    folder = final.parent
    with writing(final, needed=needed, then=_what_is_left(folder)):
        folder.mkdir(parents=True, exist_ok=True)
    _delete_temporaries(folder)
    if free_bytes(folder) < needed:
        raise _no_room(final, needed)
    return folder / f"{final.name}.{os.getpid()}-{uuid.uuid4().hex[:8]}{TEMPORARY}"


def _no_room(path: Path, needed: int) -> OSError:
    folder = path.parent if path.name.startswith(_PREFIX) else path
    return storage_error(
        path, errno.ENOSPC, os.strerror(errno.ENOSPC), needed=needed, then=f"make room; {_what_is_left(folder)}"
    )


def _what_is_left(folder: Path) -> str:
    there = _steps(folder)
    return f"the last good checkpoint is {there[-1]}" if there else "there is no earlier checkpoint"


def _bytes_of_weights(model: nn.Module) -> int:
    held = (*model.parameters(), *model.buffers())
    return sum(ds.elements(tensor) * tensor.element_size() for tensor in held)


def _complete(temporary: Path, final: Path, weights: dict[str, torch.Tensor], step: int, run: dict[str, Any]) -> None:
    """Add weights, facts and sums to a folder, and give it its name."""
    with replacing(temporary / _WEIGHTS) as written:
        save_file(weights, written)
    (temporary / _RUN).write_text(json.dumps(run, indent=2))
    files = sorted(p for p in temporary.rglob("*") if p.is_file())
    sums = {str(p.relative_to(temporary)): sha256(p) for p in files}
    (temporary / _MANIFEST).write_text(json.dumps({"step": step, "sha256": sums}, indent=2))
    for path in [*files, temporary / _MANIFEST, temporary]:
        fsync(path)
    if final.exists():
        _delete(final)
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
        if not path.is_dir():  # deleted while it was read, so there is a newer one
            return _newest_sound(folder)
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
    """``run.json`` of a checkpoint.

    Raises:
        Gone: it has been deleted meanwhile.
    """
    return _read(path, lambda: json.loads((path / _RUN).read_text()))


def read_weights(path: Path) -> tuple[dict[str, torch.Tensor], str]:
    """Weights of a checkpoint, on the CPU, and the SHA-256 of their file.

    Raises:
        Gone: it has been deleted meanwhile.
    """
    return _read(
        path, lambda: (load_file(path / _WEIGHTS), json.loads((path / _MANIFEST).read_text())["sha256"][_WEIGHTS])
    )


def _read(path: Path, read: Callable[[], T]) -> T:
    try:
        return read()
    except FileNotFoundError:
        if path.is_dir():
            raise
        raise Gone(
            f"checkpoint {path} has been deleted meanwhile, by a training that keeps the newest ones "
            "(training.keep_checkpoints); name the run's folder, or a copy of a checkpoint"
        ) from None


def found_and_read(path: str | os.PathLike[str], read: Callable[[Path], T]) -> T:
    """``read(find(path))``; once more, with the newest, where a training has deleted the checkpoint meanwhile.

    Raises:
        ValueError: as :func:`find` does.
        Gone: it is one checkpoint that was asked for, or each one is deleted before it is read.
    """
    for _ in range(_TRIES - 1):
        try:
            return read(find(path))
        except Gone:
            if Path(path).name.startswith(_PREFIX):
                raise
    return read(find(path))


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
    for folder in (path, path / BEST, path / CHECKPOINTS):
        found, problems = _newest_sound(folder)
        if found is not None:
            return found
        if problems:
            raise ValueError(f"no checkpoint is sound ({'; '.join(problems)}); name another folder")
    raise ValueError(f"no checkpoint under {path}; name a run's folder (training.output_dir) or a step-N folder")


def holds_checkpoints(folder: Path) -> bool:
    """Whether a folder is a run's, or one of checkpoints, complete or not."""
    places = (folder, folder / BEST, folder / CHECKPOINTS)
    return any(path.name.startswith(_PREFIX) for place in places if place.is_dir() for path in place.iterdir())


def is_a_checkpoint(folder: Path) -> bool:
    """By its name or by what it holds."""
    return folder.name.startswith(_PREFIX) or (folder / _RUN).is_file()


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
        _delete(path)
    _delete_temporaries(folder)


def _delete(path: Path) -> None:
    """In one step for who reads it."""
    aside = path.with_name(f"{path.name}.deleted{TEMPORARY}")
    shutil.rmtree(aside, ignore_errors=True)
    path.rename(aside)
    shutil.rmtree(aside, ignore_errors=True)


def _delete_temporaries(folder: Path) -> None:
    """What killed runs have left."""
    for path in folder.glob(f"{_PREFIX}*{TEMPORARY}"):
        shutil.rmtree(path, ignore_errors=True)
