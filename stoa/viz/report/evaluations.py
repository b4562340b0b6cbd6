"""Reports of evaluations beside a run's checkpoints, as rows of numbers."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from stoa.files import read_small
from stoa.shapes import NUMBER, OBJECT, problem_in

_MOST_FILES, _MOST_ROWS = 100, 500
_LARGEST_BYTES, _DEEPEST = 1 << 24, 8
_TABLES = ("retrieval", "captioning", "answering", "multiple_choice", "hard_sets", "matches")
_CHANCE = "chance"


class Row(NamedTuple):
    """Of a table: what it is about, and its numbers by column."""

    name: str
    numbers: dict[str, float]


class Evaluation(NamedTuple):
    """One report.

    Attributes:
        file: its name in the run's folder.
        of: what it was measured on, as ``test: clips 200 of 200``; begins with PARTIAL where that is not all.
        tables: rows by title.
        unreadable: reasons by clip.
        protocol: what was measured how.
    """

    file: str
    of: str
    tables: dict[str, list[Row]]
    unreadable: dict[str, Any]
    protocol: dict[str, Any]


def read_evaluations(paths: list[Path]) -> tuple[list[Evaluation], list[str]]:
    """Those of JSON files that are reports of ``stoa evaluate``, and what is wrong with others."""
    found, problems = [], []
    if len(paths) > _MOST_FILES:
        problems.append(f"{len(paths):,} JSON files beside the run; the first {_MOST_FILES} are looked at")
    for path in paths[:_MOST_FILES]:
        try:
            report = json.loads(read_small(path, _LARGEST_BYTES))
        except (OSError, ValueError, RecursionError) as error:
            problems.append(f"{path.name} cannot be read: {' '.join(str(error).split())[:200]}")
            continue
        if not isinstance(report, dict) or not {"coverage", "protocol"} <= report.keys():
            continue  # another file
        problem = problem_in(report, {"coverage": OBJECT, "protocol": OBJECT, "unreadable?": OBJECT}, "")
        if problem is not None:
            problems.append(f"{path.name} is damaged: {problem[:200]}")
            continue
        found.append(_evaluation(path.name, report))
    return found, problems


def _evaluation(file: str, report: Mapping[str, Any]) -> Evaluation:
    tables: dict[str, list[Row]] = {}
    for title in _TABLES:
        rows = list(_rows(report.get(title), ()))
        if rows:
            # Chance is that of the task, which is the first of them.
            tables[title] = rows if tables else [*rows, *_rows(report.get(_CHANCE), (_CHANCE,))]
    partial = "PARTIAL, " if report.get("partial") else ""
    return Evaluation(
        file,
        partial + _coverage(report["coverage"]),
        {t: r[:_MOST_ROWS] for t, r in tables.items()},
        report.get("unreadable", {}),
        report["protocol"],
    )


def _coverage(coverage: Mapping[str, Any]) -> str:
    counts = [
        f"{kind} {value.get('seen')} of {value.get('of')}"
        for kind, value in coverage.items()
        if isinstance(value, dict) and "seen" in value
    ]
    of = [str(value) for value in (coverage.get("published set"), coverage.get("split")) if value is not None]
    return f"{', '.join(of)}: {', '.join(counts)}"


def _rows(value: Any, names: tuple[str, ...]) -> Iterator[Row]:
    """An object with numbers is a row, called by the keys that lead to it."""
    if NUMBER.fits(value) and names:
        yield Row(", ".join(names), {"accuracy": value})
    if not isinstance(value, dict) or len(names) > _DEEPEST:
        return
    numbers = {key: number for key, number in value.items() if NUMBER.fits(number)}
    if numbers:
        yield Row(", ".join(names) or "all", numbers)
    for key, inner in value.items():
        if isinstance(inner, dict):
            # ``by_type`` of answers: a kind has its accuracy and how many questions it is of.
            kinds = {kind: pair for kind, pair in inner.items() if _is_pair(pair)}
            for kind, (accuracy, count) in kinds.items():
                yield Row(", ".join((*names, kind)), {"accuracy": accuracy, "num_questions": count})
            yield from _rows(inner, (*names, key))


def _is_pair(value: Any) -> bool:
    return isinstance(value, list) and len(value) == 2 and all(map(NUMBER.fits, value))
