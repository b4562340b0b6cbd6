"""Of which data set, and of how much of it, prepared data were made."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

PLAN_FILE = "plan.json"
ROWS_FILE = "rows.jsonl"
QUESTIONS_FILE = "questions.jsonl"
"""Files that ``stoa prepare`` writes beside its stores."""


class Origin(NamedTuple):
    """What ``stoa prepare`` was given.

    Attributes:
        data_set: a key of :data:`stoa.data.published.COUNTS`, or another value of ``--dataset``.
        clips, captions: of each split, as annotated: whether or not a clip's video was found and could be read.
    """

    data_set: str
    clips: Mapping[str, int]
    captions: Mapping[str, int]

    def to_json(self) -> dict[str, Any]:
        return {"data_set": self.data_set, "clips": dict(self.clips), "captions": dict(self.captions)}

    @staticmethod
    def from_json(holder: Mapping[str, Any]) -> Origin | None:
        """Of a store's or a plan's JSON; None where it was written without."""
        found = holder.get("made_of")
        return None if found is None else Origin(found["data_set"], found["clips"], found["captions"])


def origin_of_file(path: Path) -> Origin | None:
    """Of the rows or the questions that ``stoa prepare`` has written; None of any other file."""
    plan = path.parent / PLAN_FILE
    if path.name not in (ROWS_FILE, QUESTIONS_FILE) or not plan.is_file():
        return None
    try:
        return Origin.from_json(json.loads(plan.read_text(encoding="utf-8")))
    except (ValueError, KeyError, TypeError, AttributeError):
        raise ValueError(f"{plan} is damaged; run 'stoa prepare' again as before, which writes it anew") from None
