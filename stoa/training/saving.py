"""Checkpoints that a training writes, and what it needs to go on from them.

A checkpoint is written to a folder of a temporary name, flushed, given a manifest of SHA-256 sums, and renamed;
nothing older is deleted before that. With several nodes the folder must be on a file system they share. Who saves holds
the lock of the run's folder (:mod:`stoa.locks`).
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import shutil
import time
import uuid
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors.torch import save_file
from torch import nn

from stoa.files import TEMPORARY, bytes_of, free_bytes, fsync, in_units, replacing, sha256, storage_error, writing
from stoa.objectives.gather import from_first_rank, of_all_ranks
from stoa.training import engine as ds
from stoa.training import states
from stoa.training.checkpoint import MANIFEST, PREFIX, RUN, STATES, WEIGHTS, damage, steps_in

_FAILED = "failed-"
_POLL_SECONDS, _SECONDS_TO_BE_SEEN, _SECONDS_BETWEEN_FILES = 0.02, 60, 300  # file systems of networks may be late


class Content(NamedTuple):
    """Of a checkpoint, as far as this rank writes it: weights and facts are the first one's."""

    states: states.Taken
    weights: dict[str, torch.Tensor]
    run: dict[str, Any]


def begin(model: nn.Module, folder: Path, step: int) -> Path:
    """All ranks: a folder of a temporary name for the checkpoint of a step.

    Raises:
        StorageError: the disk has not the space; names the last good checkpoint.
        OSError: the ranks do not write to one folder.
    """

    def made() -> Path:
        final = folder / f"{PREFIX}{step:08d}"
        temporary = _begin(final, bytes_needed(model, folder))
        with writing(final, then=what_is_left(folder)):
            (temporary / STATES).mkdir(parents=True)
        return temporary

    temporary = from_first_rank(made)
    deadline = time.monotonic() + _SECONDS_TO_BE_SEEN
    while not (temporary / STATES).is_dir() and time.monotonic() < deadline:
        time.sleep(_POLL_SECONDS)
    blind = [rank for rank, sees in enumerate(of_all_ranks((temporary / STATES).is_dir())) if not sees]
    if blind:  # which all have to know: some would go on and others wait for them
        raise OSError(
            f"{temporary}, which the first process has made, is not there for process {blind[0]}; "
            "training.output_dir must be on a file system that all nodes share"
        )
    return temporary


def write(content: Content, temporary: Path, *, keep: int) -> Path:
    """This rank's part of a checkpoint; no rank waits for another, but the first one for all files: it then seals the
    checkpoint and deletes all but the newest ``keep``. May be called in a thread.

    Returns:
        the folder of the new checkpoint.

    Raises:
        StorageError: the disk refuses; names the last good checkpoint. What was there stays.
        OSError: another rank could not write.
    """
    folder, final = temporary.parent, temporary.with_name(temporary.name.partition(".")[0])
    taken = content.states
    try:
        with writing(final, then=what_is_left(folder)):
            states.write(taken, temporary)
            if taken.rank == 0:
                _wait_for_all(taken.writers, temporary)
                _complete(temporary, final, content.weights, content.run)
                _delete_old(folder, keep)
    except BaseException:
        if taken.rank == 0:
            shutil.rmtree(temporary, ignore_errors=True)  # others may want the space
        else:
            with contextlib.suppress(OSError):
                (temporary / f"{_FAILED}{taken.rank}").touch()
        raise
    return final


def _wait_for_all(writers: int, temporary: Path) -> None:
    """Until all ranks have written.

    Raises:
        OSError: one could not, or none has come for long.
    """
    found, since = 0, time.monotonic()
    while found < writers:
        failed = sorted(path.name.removeprefix(_FAILED) for path in temporary.glob(f"{_FAILED}*"))
        if failed:
            raise OSError(f"process {failed[0]} could not write its part of {temporary}, see its own message")
        there = len(states.files(temporary))
        if there > found:
            found, since = there, time.monotonic()
        if time.monotonic() - since > _SECONDS_BETWEEN_FILES:
            raise OSError(
                f"{temporary} holds the optimiser states of {found} of {writers} processes after "
                f"{_SECONDS_BETWEEN_FILES} s; training.output_dir must be on a file system that all nodes share"
            )
        if found < writers:
            time.sleep(_POLL_SECONDS)


def save_weights(weights: dict[str, torch.Tensor], folder: Path, step: int, run: dict[str, Any]) -> Path:
    """One rank: write a checkpoint to use, not to resume from, in the place of the one that ``folder`` holds.

    Raises:
        StorageError: the disk refuses. What was there stays.
    """
    final = folder / f"{PREFIX}{step:08d}"
    temporary = _begin(final, sum(tensor.nbytes for tensor in weights.values()))
    try:
        with writing(final, then=what_is_left(folder)):
            temporary.mkdir()
            _complete(temporary, final, weights, run)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    for path in steps_in(folder):
        if path != final:
            _delete(path)
    return final


def copy(path: Path, folder: Path, run: dict[str, Any] | None = None) -> Path:
    """One process: a checkpoint in another folder, its files linked where the file system can, with other facts.

    Args:
        path: of a sound one.
        folder: of checkpoints.
        run: for ``run.json``; none is as they are.

    Raises:
        StorageError: the disk refuses.
    """
    final = folder / path.name
    temporary = _begin(final, 0)
    try:
        with writing(final, needed=bytes_of(path)):
            shutil.copytree(path, temporary, copy_function=_link_or_copy)
            if run is not None:
                (temporary / RUN).unlink()  # a link, whose file is the other's too
                (temporary / RUN).write_text(json.dumps(run, indent=2))
            (temporary / MANIFEST).unlink()
            _seal(temporary, final)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    return final


def _link_or_copy(source: str, target: str) -> None:
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)


def prune(folder: Path, keep: int) -> list[Path]:
    """One process: delete all but the newest ``keep`` sound checkpoints, and what killed runs have left.

    Returns:
        what was deleted.
    """
    sound = [path for path in steps_in(folder) if damage(path) is None]
    kept = sound[-keep:]
    doomed = [path for path in steps_in(folder) if kept and path not in kept]
    for path in doomed:
        _delete(path)
    _delete_temporaries(folder)
    return doomed


def bytes_needed(model: nn.Module, folder: Path) -> int:
    """What a checkpoint takes: as the newest does, or else by an estimate: weights and AdamW's two moments in fp32."""
    there = [path for path in steps_in(folder) if (path / MANIFEST).is_file()]
    if there:
        return bytes_of(there[-1])
    trained = sum(ds.elements(weight) for weight in model.parameters() if weight.requires_grad)
    held = (*model.parameters(), *model.buffers())
    return 4 * sum(ds.elements(tensor) for tensor in held) + 8 * trained


def require_room(model: nn.Module, folder: Path, keep: int) -> str | None:
    """One rank, before the training: find out whether its checkpoints will find room.

    Returns:
        a line that says so, where one more has room and the ``keep`` and one being written, which there will be at a
        time, have not.

    Raises:
        StorageError: not one more has.
    """
    needed, free = bytes_needed(model, folder), free_bytes(folder)
    if free < needed:
        raise _no_room(folder, needed)
    missing = max(1, keep + 1 - len(steps_in(folder)))
    if free >= missing * needed:
        return None
    return (
        f"{folder} has room for {free // needed} more checkpoint(s) of {in_units(needed)} ({in_units(free)} free), and "
        f"training.keep_checkpoints {keep} means {missing} more at a time; make room or lower it"
    )


def _begin(final: Path, needed: int) -> Path:
    """A folder for the name ``final``, emptied of what killed runs have left; the temporary name to write to."""
    folder = final.parent
    with writing(final, needed=needed, then=what_is_left(folder)):
        folder.mkdir(parents=True, exist_ok=True)
    _delete_temporaries(folder)
    if free_bytes(folder) < needed:
        raise _no_room(final, needed)
    return folder / f"{final.name}.{os.getpid()}-{uuid.uuid4().hex[:8]}{TEMPORARY}"


def _no_room(path: Path, needed: int) -> OSError:
    folder = path.parent if path.name.startswith(PREFIX) else path
    return storage_error(
        path, errno.ENOSPC, os.strerror(errno.ENOSPC), needed=needed, then=f"make room; {what_is_left(folder)}"
    )


def what_is_left(folder: Path) -> str:
    there = steps_in(folder)
    return f"the last good checkpoint is {there[-1]}" if there else "there is no earlier checkpoint"


def _complete(temporary: Path, final: Path, weights: dict[str, torch.Tensor], run: dict[str, Any]) -> None:
    """Add weights and facts to a folder, and seal it."""
    with replacing(temporary / WEIGHTS) as written:
        save_file(weights, written)
    (temporary / RUN).write_text(json.dumps(run, indent=2))
    _seal(temporary, final)


def _seal(temporary: Path, final: Path) -> None:
    """Add the sums to a folder, and give it its name."""
    inside = sorted(temporary.rglob("*"))
    files = [p for p in inside if p.is_file()]
    sums = {p.relative_to(temporary).as_posix(): sha256(p) for p in files}
    (temporary / MANIFEST).write_text(json.dumps({"sha256": sums}, indent=2))
    for path in [*inside, temporary / MANIFEST, temporary]:
        fsync(path)
    if final.exists():
        _delete(final)
    os.rename(temporary, final)
    fsync(final.parent)


def load(engine: Any, path: Path) -> None:
    """All ranks: put the states of a checkpoint (as :func:`newest` found it) into the engine."""
    states.read(engine, path, path / WEIGHTS)


def _delete_old(folder: Path, keep: int) -> None:
    for path in steps_in(folder)[:-keep]:
        _delete(path)
    _delete_temporaries(folder)


def _delete(path: Path) -> None:
    """In one step for who reads it."""
    aside = path.with_name(f"{path.name}.deleted{TEMPORARY}")
    _remove(aside)
    path.rename(aside)
    _remove(aside)


def _remove(path: Path) -> None:
    """A folder, or what has its name."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        with contextlib.suppress(OSError):
            path.unlink(missing_ok=True)


def _delete_temporaries(folder: Path) -> None:
    """What killed runs have left."""
    for path in folder.glob(f"{PREFIX}*{TEMPORARY}"):
        _remove(path)
