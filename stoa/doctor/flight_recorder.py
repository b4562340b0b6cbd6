"""Dumps of torch's flight recorder: the last collectives of each rank, one file a rank, pickled or in JSON.

torch reads them with ``torch.distributed.flight_recorder``, which unpickles whatever a file asks for and ends with an
``AssertionError`` or ``KeyError`` on what it does not expect.
"""

from __future__ import annotations

import io
import json
import pickle
import re
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Any

from stoa.files import read_small

_NAME = re.compile(r"(?:.*\D)?(?P<rank>\d{1,7})(?:\.json)?", re.ASCII)  # what is before the rank is the user's choice


@dataclass(frozen=True, kw_only=True)
class Collective:
    """What a rank has entered.

    Attributes:
        record: number among all that the rank has entered.
        group: name and description of the process group.
        sequence: number in the group, from 1.
        operation: as ``all_reduce``.
        sizes: of the inputs, or of the outputs where there are none.
        dtypes: of these.
        state: ``scheduled``, ``started`` on the GPU or ``completed``.
        done: it is over, as far as the recorder knows.
        where: the two innermost source lines that are not a library's, innermost first, as ``file.py:12 in function``.
    """

    record: int
    group: tuple[str, str]
    sequence: int
    operation: str
    sizes: tuple[tuple[int, ...], ...]
    dtypes: tuple[str, ...]
    state: str
    done: bool
    where: tuple[str, ...]

    def __str__(self) -> str:
        sizes = ", ".join(map(str, map(list, self.sizes)))
        of = f" of {sizes} {'/'.join(sorted(set(self.dtypes)))}" if sizes else ""
        return f"{self.operation}{of}" + (f" at {', called at '.join(self.where)}" if self.where else "")


@dataclass(frozen=True, kw_only=True)
class Dump:
    """Attributes:
    collectives: of one rank, in the order that it entered them.
    complete: whether these are all; else the recorder has overwritten the first of them.
    members: ranks of the process groups, by name and description, as far as the rank knows them.
    """

    collectives: tuple[Collective, ...]
    complete: bool
    members: dict[tuple[str, str], tuple[int, ...]]


def read_dumps(folder: Path) -> dict[int, Dump]:
    """Dumps of all ranks, by rank.

    Raises:
        ValueError: the folder has none, or two of a rank; one is damaged; or ranks are missing.
    """
    if not folder.is_dir():
        raise ValueError(f"{folder}: no such folder; expected the one of the dumps, flight_recorder/ unless set")
    files: dict[int, Path] = {}
    for path in sorted(folder.iterdir()):
        name = _NAME.fullmatch(path.name)
        if name is None or not path.is_file():
            continue
        rank = int(name["rank"])
        if rank > _MOST_RANKS:
            raise ValueError(f"{path}: no run has a rank {rank}; expected rank_0 and so on")
        if rank in files:
            raise ValueError(f"{folder}: {files[rank].name} and {path.name} are both of rank {rank}; leave one run's")
        files[rank] = path
    if not files:
        raise ValueError(f"{folder}: no dumps, as rank_0; NCCL writes them when a collective times out")
    dumps = {rank: _read(path) for rank, path in sorted(files.items())}
    known = {rank for dump in dumps.values() for ranks in dump.members.values() for rank in ranks}
    if missing := sorted((known | set(range(max(dumps)))) - dumps.keys()):
        raise ValueError(
            f"{folder}: no dump of {in_words(missing)}; copy those of all machines here. A process that was killed "
            "leaves none: its log says why"
        )
    return dumps


def in_words(ranks: list[int]) -> str:
    """As ``rank 3`` or ``ranks 0-2, 5``; they are sorted."""
    runs: list[list[int]] = []
    for rank in ranks:
        if runs and rank == runs[-1][-1] + 1:
            runs[-1].append(rank)
        else:
            runs.append([rank])
    said = ", ".join(f"{run[0]}-{run[-1]}" if len(run) > 1 else str(run[0]) for run in runs)
    return f"rank{'s' if len(ranks) > 1 else ''} {said}"


_IN_PACKAGE = frozenset(path.name for path in Path(__file__).parents[1].iterdir())
_INSTALLED = ("site-packages", "dist-packages")
_MOST_RANKS, _MOST_BYTES = 1 << 20, 1 << 30


class _Plain(pickle.Unpickler):
    """Of containers, numbers and strings only: a dump is a file from elsewhere, and a pickle can name any function."""

    def find_class(self, module: str, name: str) -> Any:
        raise pickle.UnpicklingError(f"it names {module}.{name}; a dump is of plain values only")


def _read(path: Path) -> Dump:
    try:
        content = read_small(path, _MOST_BYTES)
        plain = json.loads(content) if content.lstrip()[:1] == b"{" else _Plain(io.BytesIO(content)).load()
    except Exception as error:  # whatever damage makes of an opcode
        raise ValueError(f"{path}: damaged, or no dump of the flight recorder: {_one_line(error)}") from None
    try:
        collectives = sorted(map(_collective, plain["entries"]), key=lambda one: one.record)
        return Dump(
            collectives=tuple(collectives),
            complete=not collectives or collectives[0].record == 0,
            members={
                (str(group["name"]), str(group["desc"])): tuple(map(int, json.loads(group["ranks"])))
                for group in plain["pg_config"].values()
                if group["name"]
            },
        )
    except (LookupError, TypeError, ValueError, AttributeError, ArithmeticError, RecursionError) as error:
        version = plain.get("version") if isinstance(plain, dict) else None
        raise ValueError(
            f"{path}: not a dump as torch 2.15 writes it (version 2.10; this one: {version}): {_one_line(error)}"
        ) from None


def _one_line(error: Exception) -> str:
    return f"{type(error).__name__} {' '.join(str(error).split())}".strip()[:200]


def _collective(entry: dict[str, Any]) -> Collective:
    name, description = entry["process_group"]
    library, _, operation = entry["profiling_name"].rpartition(":")
    side = "input" if entry["input_sizes"] else "output"
    state = str(entry["state"])
    if not isinstance(entry["record_id"], int) or not isinstance(entry["collective_seq_id"], int):
        raise TypeError("record_id and collective_seq_id are numbers")
    return Collective(
        record=entry["record_id"],
        group=(str(name), str(description)),
        sequence=0 if entry["is_p2p"] else entry["collective_seq_id"],
        operation=operation,
        sizes=tuple(tuple(map(int, size)) for size in entry[f"{side}_sizes"]),
        dtypes=tuple(map(str, entry[f"{side}_dtypes"])),
        state=state,
        # Gloo tells no states; NCCL retires what has timed out as well.
        done=state == "completed" or (library == "gloo" and bool(entry["retired"])),
        where=_where(entry.get("frames") or []),
    )


def _where(frames: list[dict[str, Any]]) -> tuple[str, ...]:
    own = [frame for frame in frames if _is_own(PurePath(str(frame["filename"])))]
    return tuple(f"{_short(PurePath(str(one['filename'])))}:{one['line']} in {one['name']}" for one in own[:2])


def _is_own(file: PurePath) -> bool:
    """Neither of Python nor of an installed package other than this one."""
    parts = file.parts
    installed = [number for number, part in enumerate(parts) if part in _INSTALLED]
    if installed:
        return parts[installed[-1] + 1 : installed[-1] + 2] == ("stoa",)
    return not any(re.fullmatch(r"python3\.\d+t?", part) for part in parts) and not file.name.startswith("<")


def _short(file: PurePath) -> str:
    """From the package on, or the last two parts. A checkout may have the package's name too."""
    parts = file.parts
    folders = [
        number
        for number, (part, inner) in enumerate(zip(parts, parts[1:], strict=False))
        if part == "stoa" and (inner in _IN_PACKAGE or (number and parts[number - 1] in _INSTALLED))
    ]
    return str(PurePath(*parts[folders[-1] if folders else -2 :]))
