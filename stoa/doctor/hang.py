"""Which rank missed which collective: the dumps of all ranks against each other."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from stoa.doctor.findings import Finding
from stoa.doctor.flight_recorder import Collective, Dump, in_words, read_dumps

# Ranks may hand in tensors of different sizes, or none.
_UNEVEN = ("all_to_all", "all_to_all_single", "all_to_all_v_single", "all_gather_v", "reduce_scatter_v")
_ROOTED = ("scatter", "gather")


Kind = Literal["agree", "missed", "mismatch", "unfinished"]


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """On the first collective of a process group that went wrong, or else the last.

    Attributes:
        group: number and description.
        kind: ``agree``; ``missed``, by ranks that did not enter it; ``mismatch``, where ranks entered different ones;
            ``unfinished``, which all have entered.
        sequence: number in the group, from 1.
        entered: what each rank that has entered it entered, by rank; without those whose recorder has overwritten it.
        missing: what each rank that has not entered it entered last, of any group, by rank.
        said: all that in a sentence.
    """

    group: str
    kind: Kind
    sequence: int
    entered: dict[int, Collective]
    missing: dict[int, Collective | None]
    said: str


def hang(folder: Path) -> list[Verdict]:
    """One verdict a process group.

    Raises:
        ValueError: as of ``read_dumps``, or nothing was recorded.
    """
    dumps = read_dumps(folder)
    verdicts = [_judge(name, ranks, dumps) for name, ranks in _groups(dumps).items()]
    if not verdicts:
        raise ValueError(f"{folder}: the dumps hold no collectives; nothing had been recorded when they were written")
    return verdicts


def as_findings(verdicts: Sequence[Verdict]) -> list[Finding]:
    return [Finding(one.group, "good" if one.kind == "agree" else "bad", one.said) for one in verdicts]


def as_json(verdicts: Sequence[Verdict]) -> dict[str, Any]:
    return {"good": all(one.kind == "agree" for one in verdicts), "groups": [asdict(one) for one in verdicts]}


def _groups(dumps: dict[int, Dump]) -> dict[tuple[tuple[str, str], tuple[int, ...]], tuple[int, ...]]:
    """Members of each group that has done something; groups of one name may have different ones (``split_group``)."""
    groups = {}
    for dump in dumps.values():
        for name in dict.fromkeys(one.group for one in dump.collectives if one.sequence):
            ranks = dump.members.get(name)
            if ranks is None:  # gloo does not tell
                ranks = tuple(
                    other
                    for other, theirs in dumps.items()
                    if name[1] == "default_pg" or any(one.group == name for one in theirs.collectives)
                )
            groups[name, ranks] = ranks
    return groups


def _judge(key: tuple[tuple[str, str], tuple[int, ...]], ranks: tuple[int, ...], dumps: dict[int, Dump]) -> Verdict:
    name, _ = key
    # The last of several of one number is what ends a coalesced one.
    own = {
        rank: {one.sequence: one for one in dumps[rank].collectives if one.group == name and one.sequence}
        for rank in ranks
    }
    last = {rank: max(theirs, default=0) for rank, theirs in own.items()}
    for sequence in sorted(set().union(*own.values())):
        entered = {rank: theirs[sequence] for rank, theirs in own.items() if sequence in theirs}
        late = [rank for rank in ranks if last[rank] < sequence and _is_late(dumps[rank], last[rank], entered)]
        missing = {rank: next(reversed(dumps[rank].collectives), None) for rank in late}
        kind, said = _compare(name, ranks, entered, missing)
        if kind != "agree":
            break
    return Verdict(
        group=f"group {name[0]} ({name[1]})",
        kind=kind,
        sequence=sequence,
        entered=entered,
        missing=missing,
        said=f"collective {sequence}{said}",
    )


def _compare(
    name: tuple[str, str],
    ranks: tuple[int, ...],
    entered: dict[int, Collective],
    missing: dict[int, Collective | None],
) -> tuple[Kind, str]:
    """Verdict on one collective, and the sentence after its number."""
    alike = _by_signature(entered)
    if len(alike) > 1:
        each = "; ".join(f"{entered[some[0]]} on {in_words(some)}" for some in alike)
        return "mismatch", f" is not the same on all: {each}"
    said = f", {next(iter(entered.values()))}"
    if missing:
        there = in_words([rank for rank in ranks if rank not in missing])
        return "missed", f"{said}: entered by {there}, not by {'; '.join(_late(missing, name))}"
    waiting = [rank for rank, one in entered.items() if not one.done]
    if not waiting:
        return "agree", f"{said}, is the last of all {len(ranks)} ranks"
    said += f": entered by all {len(ranks)} ranks, not finished on {in_words(waiting)}"
    queued = [rank for rank in waiting if entered[rank].state == "scheduled"]
    if 0 < len(queued) < len(ranks):
        said += f"; not begun on {in_words(queued)}, where the GPU is held up by what comes before it"
    return "unfinished", said


def _is_late(dump: Dump, last: int, entered: dict[int, Collective]) -> bool:
    """A rank that shows nothing of the group may have overwritten it, if it is over elsewhere."""
    return last > 0 or dump.complete or not all(one.done for one in entered.values())


def _by_signature(entered: dict[int, Collective]) -> list[list[int]]:
    """Ranks that have entered the same, in groups."""
    groups: dict[tuple[object, ...], list[int]] = {}
    for rank, one in entered.items():
        even = one.operation not in _UNEVEN + _ROOTED
        elements = tuple(math.prod(size) for size in one.sizes) if even else ()
        groups.setdefault((one.operation, elements, one.dtypes if even else ()), []).append(rank)
    return list(groups.values())


def _late(missing: dict[int, Collective | None], name: tuple[str, str]) -> Iterator[str]:
    alike: dict[str, list[int]] = {}
    for rank, last in missing.items():
        if last is None:
            said = "which entered none"
        else:
            of = "" if last.group == name else f" of group {last.group[0]} ({last.group[1]})"
            number = f"collective {last.sequence}{of}, " if last.sequence else ""
            said = f"last in {number}{last}"
        alike.setdefault(said, []).append(rank)
    for said, some in alike.items():
        yield f"{in_words(some)} ({said})"
