"""Questions about clips, as JSONL.

A row holds ``clip`` (the id of a row of the manifest), ``type``, ``question`` and ``answer``, and optionally ``id``
(else the number of the row), ``split`` (else that of the clip) and ``options`` of which one is the answer. ``null`` is
an absent value. Texts are read in Unicode NFC.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stoa.fields import name_of, refuse_placeholder, show
from stoa.manifest import jsonl_rows
from stoa.text_files import misnamed, nfc

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


def questions_of_split(
    path: str | os.PathLike[str],
    split: str,
    clips: Collection[str],
    *,
    every_clip: Callable[[], Collection[str]],
    types: Sequence[str] | None = None,
) -> tuple[list[QuestionRow], list[QuestionRow]]:
    """Questions of a split: told by its file in a folder, by the question, or else by its clip.

    Args:
        path: a ``.jsonl`` file, or a folder with ``<split>.jsonl``.
        split: whose questions to take.
        clips: ids of its clips.
        every_clip: gives the ids of the clips of all splits; called where a question is about none of ``clips``.
        types: of the questions to take; none is all.

    Returns:
        (questions to ask, those whose clip is not there).

    Raises:
        ValueError: no question is left, or some are about no clip at all; the message names clips, types or splits.
    """
    folder = Path(path).is_dir()
    rows = list(read_questions(Path(path) / f"{split}.jsonl" if folder else path))
    here = set(clips)
    if not folder:
        lost = [row.clip for row in rows if row.split is None and row.clip not in here]
        strange = sorted(set(lost) - set(every_clip())) if lost else []
        if strange:
            first = ", ".join(map(repr, strange[:3]))
            raise ValueError(
                f"questions {path} are about {len(strange)} clips that are not in the manifest, {first}"
                f"{' and others' if len(strange) > 3 else ''}; mend their 'clip', or give these questions the 'split' "
                "that their clips were left out of"
            )
    of_split = [row for row in rows if row.split == split or (row.split is None and (folder or row.clip in here))]
    wanted = [row for row in of_split if types is None or row.type in types]
    asked = [row for row in wanted if row.clip in here]
    if not asked:
        if wanted:
            why = f"none of the {len(wanted)} is about a clip of it (the first is about {wanted[0].clip!r})"
        elif of_split:
            why = f"none has a type of {list(types or ())} (types found: {sorted({row.type for row in of_split})})"
        else:
            why = f"none is of it (splits found: {sorted({row.split or 'that of the clip' for row in rows})})"
        raise ValueError(f"questions {path} hold nothing to ask of split {split!r}: {why}")
    return asked, [row for row in wanted if row.clip not in here]


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
        meant = [key for key in sorted(_KEYS - raw.keys()) if misnamed(key, unknown) == unknown[0]]
        hint = f"did you mean {meant[0]!r}?" if meant else f"the keys are {', '.join(sorted(_KEYS))}"
        raise ValueError(f"{where}: key {unknown[0]!r} has no meaning here; {hint}")
    options = [] if raw.get("options") is None else raw["options"]
    if not isinstance(options, list) or not all(isinstance(option, str) and option for option in options):
        raise ValueError(f"{where}: key 'options' is {show(options)}; expected a list of texts")
    options = list(map(nfc, options))
    for key in ("clip", "type", "question", "answer"):
        value = raw.get(key)
        # A question of a multiple choice may be empty.
        if value is None or (value == "" and not (key == "question" and options)):
            raise ValueError(f"{where}: key {key!r} is {value!r}; expected a text that is not empty")
    for key in ("type", "question"):
        if not isinstance(raw[key], str):
            raise ValueError(f"{where}: key {key!r} is {show(raw[key])}; expected a text that is not empty")
    for key in ("id", "clip", "split"):
        refuse_placeholder(raw.get(key), key, where)
    answer = nfc(raw["answer"]) if isinstance(raw["answer"], str) else name_of(raw["answer"], "answer", where)
    if options and answer not in options:
        raise ValueError(f"{where}: answer {answer!r} is none of the options {options}; write one of them")
    return QuestionRow(
        id=where.rpartition(" ")[2] if raw.get("id") is None else name_of(raw["id"], "id", where),
        clip=name_of(raw["clip"], "clip", where),
        question=nfc(raw["question"]),
        answer=answer,
        type=nfc(raw["type"]),
        options=tuple(options),
        split=None if raw.get("split") is None else name_of(raw["split"], "split", where),
    )
