"""A training's state in files that do not depend on how many processes wrote them, nor on the stage of ZeRO.

Each rank writes ``states/rank-N.safetensors``: of each trained parameter the pieces that its optimiser holds, named
``MOMENT:STEPS:START:PARAMETER`` (see :class:`~stoa.training.pieces.Piece`). ``states/engine.json`` holds the counts of
DeepSpeed's engine and the loss scale. Weights are those of ``model.safetensors``. Nothing of it is code.
"""

from __future__ import annotations

import json
import re
from collections import defaultdict
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from stoa.files import replacing
from stoa.training import engine as ds
from stoa.training.checkpoint import STATES
from stoa.training.facts import read_counts
from stoa.training.pieces import MOMENTS, Piece, pieces, rewritten, untrained

_ENGINE = "engine.json"
_KEY = re.compile(rf"(?P<moment>{'|'.join(MOMENTS)}):(?P<steps>\d{{1,18}}):(?P<start>\d{{1,18}}):(?P<name>.+)")


class Taken(NamedTuple):
    """What this rank writes.

    Attributes:
        rank: of it.
        writers: ranks that write.
        counts: of the engine, on the first rank.
        tensors: by name; without ZeRO all ranks hold the same, and the first one writes.
    """

    rank: int
    writers: int
    counts: dict[str, Any]
    tensors: dict[str, torch.Tensor]


def take(engine: Any, *, copy: bool) -> Taken:
    """What this rank has to write; as a ``copy``, which the training does not change any more, or not."""
    rank, writers = dist.get_rank(), dist.get_world_size() if ds.zero_stage(engine) > 0 else 1
    tensors = {
        f"{moment}:{piece.steps}:{piece.start}:{piece.name}": piece.moment(moment).to("cpu", copy=copy)
        for piece in pieces(engine)
        if rank < writers and piece.has_moments()
        for moment in MOMENTS
    }
    return Taken(rank, writers, {"files": writers, **ds.counts(engine)}, tensors)


def write(taken: Taken, folder: Path) -> None:
    """Into ``folder/states``, which is there.

    Raises:
        StorageError: the disk refuses.
    """
    if taken.rank == 0:
        (folder / STATES / _ENGINE).write_text(json.dumps(taken.counts, indent=2))
    if taken.rank < taken.writers:
        with replacing(folder / STATES / f"rank-{taken.rank:05d}.safetensors") as written:
            save_file(taken.tensors, written)


def files(folder: Path) -> list[Path]:
    """Those of the ranks, in their order."""
    return sorted((folder / STATES).glob("rank-*.safetensors"))


def read(engine: Any, folder: Path, weights: Path) -> None:
    """All ranks: the reverse of :func:`write`, whatever the number of processes and the stage then and now.

    Args:
        engine: of DeepSpeed, around an objective with the checkpoint's model.
        folder: of the checkpoint.
        weights: its ``model.safetensors``.

    Raises:
        ValueError: a file is not what :func:`write` makes, or a parameter's moments are not all there.
    """
    try:
        counts = read_counts(folder / STATES / _ENGINE, ds.COUNTS)
    except (ValueError, OSError) as error:
        raise ValueError(f"checkpoint {folder} cannot be read: {error}") from None
    try:
        if len(files(folder)) != counts["files"]:
            raise ValueError(
                f"checkpoint {folder} has the states of {len(files(folder))} of the {counts['files']} processes that "
                "wrote it; use the one before"
            )
        ds.set_counts(engine, counts)
        with ExitStack() as opened, rewritten(engine):
            whole = opened.enter_context(safe_open(weights, framework="pt"))
            ds.set_whole({name: (tensor, whole.get_tensor(name)) for name, tensor in untrained(engine).items()})
            saved = _Saved([opened.enter_context(safe_open(path, framework="pt")) for path in files(folder)])
            for piece in pieces(engine):  # a run that goes back has some of later steps
                piece.optimizer.state.pop(piece.held, None)
            for piece in pieces(engine):
                values = whole.get_tensor(piece.name).view(-1)
                piece.weights.copy_(values[piece.start :][: piece.elements])
                saved.fill(piece, folder)
    except (SafetensorError, KeyError, OSError) as error:
        raise ValueError(f"checkpoint {folder} cannot be read: {' '.join(str(error).split())}") from None


class _Slice(NamedTuple):
    start: int
    stop: int
    key: str
    file: Any


class _Saved:
    """The pieces that a checkpoint holds, by parameter and moment."""

    def __init__(self, opened: list[Any]) -> None:
        self._slices: dict[tuple[str, str], list[_Slice]] = defaultdict(list)
        self._steps: dict[str, int] = {}
        for file in opened:
            for key in file.keys():  # noqa: SIM118, it is no dict
                piece = file.get_slice(key)
                named, shape, dtype = _KEY.fullmatch(key), piece.get_shape(), piece.get_dtype()
                if named is None or len(shape) != 1 or dtype != "F32":
                    raise KeyError(f"{key!r}, {shape} {dtype}, is not a piece of a moment")
                name, start = named["name"], int(named["start"])
                self._slices[name, named["moment"]].append(_Slice(start, start + shape[0], key, file))
                self._steps[name] = int(named["steps"])

    def fill(self, piece: Piece, folder: Path) -> None:
        """The moments of a piece, from all that overlap it; a parameter that was never stepped has none."""
        if piece.name not in self._steps:
            return
        piece.make_moments(self._steps[piece.name])
        stop = piece.start + piece.elements
        for moment in MOMENTS:
            filled, into = 0, piece.moment(moment)
            for there in self._slices[piece.name, moment]:
                first, last = max(piece.start, there.start), min(stop, there.stop)
                if first < last:
                    values = there.file.get_slice(there.key)[first - there.start : last - there.start]
                    into[first - piece.start : last - piece.start].copy_(values)
                    filled += last - first
            if filled != piece.elements:
                raise ValueError(
                    f"checkpoint {folder} has {filled} of the {piece.elements} values of {moment} of {piece.name} that "
                    "this process needs; use the one before"
                )
