"""Checkpoints of a run: which there are, which of them are sound, and what they hold.

``step-N/`` holds the optimiser's states (to resume, :mod:`stoa.training.states`), ``model.safetensors`` with
``run.json`` (to use the model elsewhere) and ``manifest.json`` with the SHA-256 of each file. It is complete or not
there (:mod:`stoa.training.saving`). A run with a validation keeps its best weights in ``best/step-N/``.
"""

from __future__ import annotations

import json
import math
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from stoa.files import read_small, sha256
from stoa.training.facts import read_facts

T = TypeVar("T")
PREFIX = "step-"
BEST, CHECKPOINTS = "best", "checkpoints"
"""Folders of a run for the weights that validation has chosen, and for all that a run is resumed from."""

MANIFEST, RUN, WEIGHTS = "manifest.json", "run.json", "model.safetensors"
STATES = "states"
"""Folder of a checkpoint for what a training needs beside its weights."""

_DAMAGED, _EARLIER = ".damaged", ".earlier"
_TRIES = 5


class Gone(ValueError):
    """A checkpoint that was there has been deleted: a training keeps so many."""


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
        for path in steps_in(folder):
            _rename(path, _DAMAGED)
    return found


def _newest_sound(folder: Path, *, to_use: bool = False) -> tuple[Path | None, list[str]]:
    """The newest sound checkpoint, of those that validation has scored the best, and what is wrong with those that
    would go before it, which is said where there is a sound one."""
    problems: list[str] = []
    for path in sorted(steps_in(folder), key=_score, reverse=True):
        problem = damage(path, to_use=to_use)
        if problem is None:
            for other in problems:
                print(f"checkpoint {other}; using {path.name}", flush=True)
            return path, problems
        if not path.is_dir():  # deleted while it was read, so there is a newer one
            return _newest_sound(folder, to_use=to_use)
        problems.append(f"{path} is damaged: {problem}")
    return None, problems


def _score(path: Path) -> tuple[float, str]:
    """Of validation, where there was one, and then by step: a run that was resumed may find better weights at an
    earlier step than it had."""
    try:
        score = json.loads(read_small(path / RUN))["validation"]
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        score = None
    known = isinstance(score, float | int) and not math.isnan(score)
    return float(score) if known else -math.inf, path.name


def set_aside_after(path: Path) -> None:
    """Rename the damaged checkpoints after ``path``, so that they never count as newer ones."""
    for other in steps_in(path.parent):
        if other.name > path.name:
            _rename(other, _DAMAGED)


def set_aside(folder: Path) -> None:
    """Rename the checkpoints of a folder, so that none counts any more."""
    for path in steps_in(folder):
        _rename(path, _EARLIER)


def _rename(path: Path, suffix: str) -> None:
    aside = path.with_name(path.name + suffix)
    shutil.rmtree(aside, ignore_errors=True)
    path.rename(aside)


def damage(path: Path, *, to_use: bool = False) -> str | None:
    """What is wrong with a checkpoint folder, or ``None``: each file is listed with its sum, and none is not.

    Args:
        path: of it.
        to_use: and not to go on from: weights and facts are enough, whatever else there is.
    """
    try:
        sums = _sums(path)
    except (OSError, ValueError) as error:
        return f"{MANIFEST}: {error}"
    there = {p.relative_to(path).as_posix() for p in path.rglob("*") if not p.is_dir()} - {MANIFEST}
    needed = {RUN, WEIGHTS}
    if unlisted := sorted((needed if to_use else there | needed) - sums.keys()):
        return f"{unlisted[0]} is not listed in {MANIFEST}"
    read = needed if to_use else sums.keys()
    if missing := sorted(read - there):
        return f"{missing[0]} is missing"
    for name in sorted(read):
        if not (path / name).is_file():
            return f"{name} is no file"
        if not Path(os.path.realpath(path / name)).is_relative_to(os.path.realpath(path)):
            return f"{name} is a link out of the checkpoint"
        if sha256(path / name) != sums[name]:
            return f"{name} has changed since it was written"
    return None


def _sums(path: Path) -> dict[str, str]:
    """SHA-256 by name, as the manifest has them.

    Raises:
        OSError, ValueError: it cannot be read, or is none.
    """
    try:
        if (path / MANIFEST).is_symlink():
            raise ValueError("it is a link")
        manifest = json.loads(read_small(path / MANIFEST))
    except RecursionError:
        raise ValueError("nested too deep") from None
    sums = manifest.get("sha256") if isinstance(manifest, dict) else None
    if not isinstance(sums, dict) or not all(isinstance(value, str) for value in sums.values()):
        raise ValueError("it has no sha256 of each file")
    return sums


def read_resumable(path: Path) -> dict[str, Any]:
    """``run.json`` of a checkpoint to go on from, which one of weights alone is not.

    Raises:
        Gone: it has been deleted meanwhile.
        ValueError: it holds no states of an optimiser, or no position in the data.
    """
    run = read_run(path)
    if not (path / STATES).is_dir() or "sampler" not in run:
        raise ValueError(
            f"checkpoint {path} holds weights and no states to go on from ({STATES}/); --init "
            f"{path} starts another run from its weights"
        )
    return run


def read_run(path: Path) -> dict[str, Any]:
    """``run.json`` of a checkpoint.

    Raises:
        Gone: it has been deleted meanwhile.
        ValueError: it is not as a training writes it.
    """
    return _read(path, lambda: read_facts(path / RUN))


def read_weights(path: Path) -> tuple[dict[str, torch.Tensor], str]:
    """Weights of a checkpoint, on the CPU, and the SHA-256 of their file.

    Raises:
        Gone: it has been deleted meanwhile.
        ValueError: they are no safetensors.
    """
    return _read(path, lambda: (load_file(path / WEIGHTS), _sums(path)[WEIGHTS]))


def _read(path: Path, read: Callable[[], T]) -> T:
    try:
        return read()
    except (SafetensorError, ValueError) as error:
        raise ValueError(f"checkpoint {path} cannot be read: {' '.join(str(error).split())}") from None
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
            if Path(path).name.startswith(PREFIX):
                raise
    return read(find(path))


def find(path: str | os.PathLike[str]) -> Path:
    """A checkpoint to use from what a user names: a checkpoint folder, a folder of checkpoints, or a run's folder, of
    which it is the one that validation has chosen, or else the newest.

    Raises:
        ValueError: there is none, or none is sound; the message names the folder.
    """
    path = Path(path)
    if path.name.startswith(PREFIX) and path.is_dir():
        problem = damage(path, to_use=True)
        if problem is not None:
            raise ValueError(f"checkpoint {path} is damaged: {problem}; choose another")
        return path
    for folder in (path, path / BEST, path / CHECKPOINTS):
        found, problems = _newest_sound(folder, to_use=True)
        if found is not None:
            return found
        if problems:
            raise ValueError(f"no checkpoint is sound ({'; '.join(problems)}); name another folder")
    raise ValueError(f"no checkpoint under {path}; name a run's folder (training.output_dir) or a step-N folder")


def holds_checkpoints(folder: Path) -> bool:
    """Whether a folder is a run's, or one of checkpoints, complete or not."""
    places = (folder, folder / BEST, folder / CHECKPOINTS)
    return any(path.name.startswith(PREFIX) for place in places if place.is_dir() for path in place.iterdir())


def is_a_checkpoint(folder: Path) -> bool:
    """By its name or by what it holds."""
    return folder.name.startswith(PREFIX) or (folder / RUN).is_file()


def steps_in(folder: Path) -> list[Path]:
    """Checkpoint folders, sound or not, oldest first."""
    if not folder.is_dir():
        return []
    return sorted(p for p in folder.iterdir() if p.name.startswith(PREFIX) and not p.suffix)
