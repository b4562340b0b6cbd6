"""What went wrong in a run: its ledger, and the stacks of processes that hung."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path
from typing import Any, NamedTuple

from stoa.data.ledger import ledger_records
from stoa.files import open_regular

_FAILURES = {"skipped", "replaced", "blamed"}
"""Events of a training's ledger by which a clip was lost; others are notes on clips that were used."""

_MOST_CLIPS, _MOST_KINDS = 10_000, 100
_MOST_HANGS, _HANG_BYTES = 64, 1 << 18
_OF_HANG = re.compile(r"\d{4}-\d\d-\d\d .* process \d+: .*")


class Clip(NamedTuple):
    """One that was lost, by what its first record says."""

    clip: str
    event: str
    reason: str
    path: str
    replacement: str


class Tally(NamedTuple):
    """Of a ledger.

    Attributes:
        kinds: records by event and kind.
        clips: the first that were lost, up to 10,000.
        times: how often each of them was.
        more: records of clips beyond them.
    """

    kinds: Counter[tuple[str, str]]
    clips: dict[str, Clip]
    times: Counter[str]
    more: int


class Hang(NamedTuple):
    """A file of ``hangs/``.

    Attributes:
        file: its name.
        said: the lines that say what did not end.
        stacks: its beginning.
        cut: whether it is longer.
    """

    file: str
    said: list[str]
    stacks: str
    cut: bool


def read_ledger(path: Path) -> Tally:
    """Count a ledger of any length.

    Raises:
        OSError: it cannot be read.
    """
    kinds, times = Counter[tuple[str, str]](), Counter[str]()
    clips: dict[str, Clip] = {}
    more = 0
    for record in ledger_records(path):
        event, clip = record["event"], record["clip"]
        key = event, _text(record.get("kind"))
        kinds[key if key in kinds or len(kinds) < _MOST_KINDS else ("others", "")] += 1
        if event not in _FAILURES:
            continue
        if clip in clips or len(clips) < _MOST_CLIPS:
            times[clip] += 1
            rest = _text(record.get("path")), _text(record.get("replacement"))
            clips.setdefault(clip, Clip(clip, event, record["reason"][:_LONGEST], *rest))
        else:
            more += 1
    return Tally(kinds, clips, times, more)


_LONGEST = 600


def _text(value: Any) -> str:
    return "" if value is None else str(value)[:_LONGEST]


def read_hangs(paths: list[Path]) -> list[Hang]:
    """Of the files of ``hangs/``, the first 64.

    Raises:
        OSError: one cannot be read.
    """
    found = []
    for path in paths[:_MOST_HANGS]:
        with open_regular(path) as file:
            content = file.read(_HANG_BYTES + 1)
        stacks = content[:_HANG_BYTES].decode(errors="replace")
        said = [line for line in stacks.split("\n") if _OF_HANG.fullmatch(line)]
        found.append(Hang(path.name, said, stacks, len(content) > _HANG_BYTES))
    return found
