"""The manifest: one row a clip, as JSONL or CSV.

JSONL rows hold ``id``, ``video``, ``captions`` (a list of strings, or of objects with ``text`` and the
character spans ``nouns`` and ``verbs``, and perhaps ``noun_labels``) or ``caption`` (one of them), and optionally
``split``, ``start_seconds``, ``end_seconds`` and ``detections``. CSV has the same columns with one ``caption``.
Paths are relative to the manifest's folder.
"""

from __future__ import annotations

import csv
import html
import json
import math
import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

Span = tuple[int, int]
# Other fields are the user's own and ignored; these would be ignored by mistake.
_MISTAKEN = {"start": "start_seconds", "end": "end_seconds", "boxes": "detections"}


@dataclass(frozen=True, slots=True)
class Caption:
    """A caption and the half-open character spans of its common nouns and main verbs.

    ``noun_labels``, where known, names for each noun its class in the label vocabulary of the detections, or -1.
    """

    text: str
    nouns: tuple[Span, ...] = ()
    verbs: tuple[Span, ...] = ()
    noun_labels: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Prompt(Caption):
    """A question in the place of a caption: what a model reads before it answers.

    ``answer`` is what it says then, where it has to say it; ``target`` is the class of the answer, -1 for none.
    """

    answer: str = ""
    target: int = -1


@dataclass(frozen=True, slots=True)
class ClipRow:
    """One clip. ``start_seconds``/``end_seconds`` cut a part out of the file; ``None`` means its start/end."""

    id: str
    video: str
    captions: tuple[Caption, ...]
    split: str = "train"
    start_seconds: float | None = None
    end_seconds: float | None = None
    detections: str | None = None


def read_manifest(
    path: str | os.PathLike[str],
    *,
    split: str | None = None,
    on_skip: Callable[[str, str], None] | None = None,
    uncaptioned: bool = False,
) -> list[ClipRow]:
    """Read a manifest.

    Args:
        path: a ``.jsonl`` or ``.csv`` file.
        split: keep the rows of this split only.
        on_skip: called with (clip id, reason) for each row left out because all its captions are empty.
        uncaptioned: keep these rows too.

    Raises:
        ValueError: the file is missing, a row lacks a field or holds a bad value (the message names
            file, row and field), ids repeat, or nothing is left.
    """
    path = Path(path)
    rows: list[ClipRow] = []
    seen: dict[str, str] = {}
    splits: set[str] = set()
    silent = 0
    for where, row in manifest_rows(path):
        if row.id in seen:
            raise ValueError(f"{where}: id {row.id!r} already stands in {seen[row.id]}; ids must be unique")
        seen[row.id] = where
        splits.add(row.split)
        if split is not None and row.split != split:
            continue
        if not row.captions and not uncaptioned:
            silent += 1
            if on_skip is not None:
                on_skip(row.id, "empty caption")
            continue
        rows.append(row)
    if not rows:
        wanted = f" with split {split!r} (splits found: {sorted(splits)})" if split is not None else ""
        why = f": all {silent} lack a caption" if silent else ""
        raise ValueError(f"manifest {path} has no usable row{wanted}{why}")
    return rows


def manifest_rows(path: Path) -> Iterator[tuple[str, ClipRow]]:
    """(place, row) for every row of a manifest, one by one.

    Raises:
        ValueError: as :func:`read_manifest`, but for what concerns several rows.
    """
    if path.is_dir():
        raise ValueError(f"manifest {path} is a folder; pass the .jsonl or .csv file itself")
    if not path.is_file():
        raise ValueError(f"manifest {path} does not exist; pass a .jsonl or .csv file, or make one with 'stoa synth'")
    readers = {".jsonl": jsonl_rows, ".csv": _csv_rows}
    if path.suffix not in readers:
        raise ValueError(f"manifest {path} has suffix {path.suffix!r}; expected .jsonl or .csv")
    for where, raw in readers[path.suffix](path):
        yield where, row_from_json(raw, where)


def write_manifest(path: str | os.PathLike[str], rows: Iterable[ClipRow]) -> None:
    """Write rows as JSONL, leaving out fields that hold their default."""
    # Half a surrogate pair, which JSON can hold and UTF-8 cannot, stays the escape that it was.
    with open(path, "w", encoding="utf-8", errors="backslashreplace") as file:
        for row in rows:
            file.write(json.dumps(row_to_json(row), ensure_ascii=False) + "\n")


def row_to_json(row: ClipRow) -> dict[str, Any]:
    """A row as JSON holds it, without the fields that have their default."""
    captions = [
        {"text": c.text, "nouns": c.nouns, "verbs": c.verbs} | ({"noun_labels": c.noun_labels} if c.noun_labels else {})
        for c in row.captions
    ]
    out: dict[str, Any] = {"id": row.id, "video": row.video, "captions": captions, "split": row.split}
    for key in ("start_seconds", "end_seconds", "detections"):
        value = getattr(row, key)
        if value is not None:
            out[key] = value
    return out


def jsonl_rows(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """(place, object) of every line that is not blank.

    Raises:
        ValueError: a line is not UTF-8, not JSON or no object.
    """
    with open(path, "rb") as file:
        for number, line in enumerate(file, start=1):
            where = f"{path}, row {number}"
            try:
                text = line.decode("utf-8-sig" if number == 1 else "utf-8").strip()
            except UnicodeDecodeError as error:
                raise ValueError(
                    f"{where}: not UTF-8 ({error.reason} at byte {error.start}); re-save the file as UTF-8"
                ) from None
            if not text:
                continue
            try:
                raw = json.loads(text, object_pairs_hook=partial(unique_keys, where=where))
            except json.JSONDecodeError as error:
                raise ValueError(f"{where}: not valid JSON ({error.msg} at column {error.colno})") from None
            if not isinstance(raw, dict):
                raise ValueError(f"{where}: expected a JSON object, got {type(raw).__name__}")
            yield where, raw


def unique_keys(pairs: list[tuple[str, Any]], where: str) -> dict[str, Any]:
    """An object of a JSON file.

    Raises:
        ValueError: a key stands twice in it.
    """
    out = dict(pairs)
    if len(out) != len(pairs):
        seen: set[str] = set()
        for place, (key, _) in enumerate(pairs, start=1):
            if key in seen:
                first = [k for k, _ in pairs].index(key) + 1
                raise ValueError(f"{where}: key {key!r} stands twice, as entry {first} and as entry {place}; keep one")
            seen.add(key)
    return out


def _csv_rows(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    csv.field_size_limit(1 << 24)  # a longer caption is a quote that is never closed
    with open(path, encoding="utf-8-sig", newline="") as file:
        reader = csv.DictReader(file, strict=True)
        try:
            if "caption" not in (reader.fieldnames or ()):
                raise ValueError(f"{path}: column 'caption' is missing; every row needs 'id', 'video' and 'caption'")
            for raw in reader:
                if any(raw.get(None) or ()):  # what DictReader has no column for, but for a spreadsheet's empty cells
                    raise ValueError(
                        f"{path}, line {reader.line_num}: more cells than columns; put a text that holds a comma in "
                        "double quotes"
                    )
                # An empty cell and a missing one look the same: an empty caption.
                cells = {key: value for key, value in raw.items() if key and value not in ("", None)}
                yield f"{path}, line {reader.line_num}", {"captions": [], **cells}
        except UnicodeDecodeError as error:
            raise ValueError(f"{path}: not UTF-8 ({error.reason}); re-save the file as UTF-8") from None
        except csv.Error as error:
            raise ValueError(f"{path}, line {reader.reader.line_num}: not valid CSV ({error})") from None


def row_from_json(raw: dict[str, Any], where: str) -> ClipRow:
    """The row that ``raw`` describes.

    Raises:
        ValueError: a field is missing or holds a bad value; the message starts with ``where``.
    """
    for field in ("id", "video"):
        if not isinstance(raw.get(field), (str, int)) or raw[field] == "":
            raise ValueError(
                f"{where}: field {field!r} is missing or empty; every row needs 'id', 'video' and 'captions'"
            )
    for field, meant in _MISTAKEN.items():
        if field in raw:
            raise ValueError(f"{where}: field {field!r} has no meaning here; write {meant!r}")
    if "caption" in raw:
        texts = [raw["caption"]]
    elif "captions" in raw:
        texts = raw["captions"]
        if not isinstance(texts, list):
            raise ValueError(
                f"{where}: field 'captions' is a {type(texts).__name__}; expected a list (or use 'caption' for one)"
            )
    else:
        raise ValueError(f"{where}: field 'captions' is missing; every row needs 'id', 'video' and 'captions'")
    captions = tuple(c for c in (_parse_caption(text, where) for text in texts) if html.unescape(c.text).strip())
    if not isinstance(raw.get("detections", ""), str):
        raise ValueError(f"{where}: field 'detections' is {raw['detections']!r}; expected the path of a .npz file")
    start, end = (_parse_seconds(raw, key, where) for key in ("start_seconds", "end_seconds"))
    if start is not None and end is not None and end <= start:
        raise ValueError(f"{where}: end_seconds {end} is not after start_seconds {start}")
    return ClipRow(
        id=str(raw["id"]),
        video=str(raw["video"]),
        captions=captions,
        split=str(raw.get("split", "train")),
        start_seconds=start,
        end_seconds=end,
        detections=raw.get("detections"),
    )


def _parse_caption(raw: Any, where: str) -> Caption:
    if isinstance(raw, str):
        return Caption(raw)
    if not isinstance(raw, dict) or not isinstance(raw.get("text"), str):
        raise ValueError(f"{where}: caption {raw!r} is neither a string nor an object with 'text'")
    spans = {}
    for kind in ("nouns", "verbs"):
        try:
            spans[kind] = tuple((int(start), int(end)) for start, end in raw.get(kind, ()))
        except (TypeError, ValueError):
            raise ValueError(f"{where}: {kind} is {raw[kind]!r}; expected a list of [start, end] pairs") from None
        for start, end in spans[kind]:
            if not 0 <= start < end <= len(raw["text"]):
                raise ValueError(
                    f"{where}: {kind} span [{start}, {end}) lies outside the caption of {len(raw['text'])} characters"
                )
    labels = raw.get("noun_labels", ())
    if not isinstance(labels, (list, tuple)) or not all(type(label) is int and label >= -1 for label in labels):
        raise ValueError(f"{where}: noun_labels is {labels!r}; expected a list of class indices, -1 for unknown")
    if labels and len(labels) != len(spans["nouns"]):
        raise ValueError(
            f"{where}: noun_labels has {len(labels)} entries for {len(spans['nouns'])} nouns; give each one"
        )
    return Caption(raw["text"], spans["nouns"], spans["verbs"], tuple(labels))


def _parse_seconds(raw: dict[str, Any], key: str, where: str) -> float | None:
    value = raw.get(key)
    if value is None:
        return None
    try:
        seconds = float(value)
    except (TypeError, ValueError):
        seconds = math.nan
    if not (math.isfinite(seconds) and seconds >= 0):
        raise ValueError(f"{where}: field {key!r} is {value!r}; expected a number of seconds >= 0")
    return seconds
