"""Questions about clips, as JSONL.

A row holds ``clip`` (the id of a row of the manifest), ``type``, ``question`` and ``answer``, and optionally ``id``
(else the number of the row), ``split`` (else that of the clip) and ``options`` of which one is the answer.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stoa.manifest import jsonl_rows

_KEYS = {"id", "clip", "type", "question", "answer", "options", "split"}


@dataclass(frozen=True, slots=True)
class QuestionRow:
    """A question. ``options`` are the answers to choose from, and none for an open question.

    Where the options are captions to choose from, ``question`` is empty. ``split`` is None where the clip tells it.
    """

    id: str
    clip: str
    question: str
    answer: str
    type: str
    options: tuple[str, ...] = ()
    split: str | None = None


def read_questions(path: str | os.PathLike[str]) -> Iterator[QuestionRow]:
    """Read questions one by one.

    Raises:
        ValueError: the file is missing, a row lacks a key or holds a bad value, the answer is none of the options, or
            an id repeats; the message names file, row and key.
    """
    path = Path(path)
    if not path.is_file():
        raise ValueError(f"questions {path} do not exist; pass a .jsonl file with 'clip', 'question' and 'answer'")
    seen: dict[str, str] = {}
    for where, raw in jsonl_rows(path):
        row = _parse_row(raw, where)
        if row.id in seen:
            raise ValueError(f"{where}: id {row.id!r} already stands in {seen[row.id]}; ids must be unique")
        seen[row.id] = where
        yield row


def write_questions(path: str | os.PathLike[str], rows: Iterable[QuestionRow]) -> None:
    """Write rows as JSONL, leaving out the keys that hold their default."""
    with open(path, "w", encoding="utf-8", errors="backslashreplace") as file:
        for row in rows:
            out: dict[str, Any] = {"id": row.id, "clip": row.clip, "type": row.type}
            out |= {"question": row.question, "answer": row.answer}
            if row.options:
                out["options"] = row.options
            if row.split is not None:
                out["split"] = row.split
            file.write(json.dumps(out, ensure_ascii=False) + "\n")


def _parse_row(raw: dict[str, Any], where: str) -> QuestionRow:
    unknown = sorted(raw.keys() - _KEYS)
    if unknown:
        raise ValueError(f"{where}: key {unknown[0]!r} has no meaning here; the keys are {', '.join(sorted(_KEYS))}")
    for key in ("clip", "type", "question", "answer"):
        value = raw.get(key)
        # A clip or an answer may be a number; a question of a multiple choice may be empty.
        kinds = (str, int) if key in ("clip", "answer") else str
        if not isinstance(value, kinds) or (value == "" and not (key == "question" and raw.get("options"))):
            raise ValueError(f"{where}: key {key!r} is {value!r}; expected a text that is not empty")
    options = raw.get("options", [])
    if not isinstance(options, list) or not all(isinstance(option, str) and option for option in options):
        raise ValueError(f"{where}: key 'options' is {options!r}; expected a list of texts")
    answer = str(raw["answer"])
    if options and answer not in options:
        raise ValueError(f"{where}: answer {answer!r} is none of the options {options}; write one of them")
    for key in ("id", "split"):
        if not isinstance(raw.get(key, ""), (str, int)) or raw.get(key) == "":
            raise ValueError(f"{where}: key {key!r} is {raw[key]!r}; expected a text, or leave the key out")
    return QuestionRow(
        id=str(raw.get("id", where.rpartition(" ")[2])),
        clip=str(raw["clip"]),
        question=raw["question"],
        answer=answer,
        type=raw["type"],
        options=tuple(options),
        split=str(raw["split"]) if "split" in raw else None,
    )
