"""The manifest: one row a clip, as JSONL or CSV.

JSONL rows hold ``id``, ``video``, ``captions`` (a list of strings, or of objects with ``text`` and the
character spans ``nouns`` and ``verbs``, and perhaps ``noun_labels``) or ``caption`` (one of them), and optionally
``split``, ``start_seconds``, ``end_seconds`` and ``detections``; ``null`` is an absent value. CSV has the same columns
with one ``caption``. Paths are relative to the manifest's folder. Ids, splits and captions are read in Unicode NFC.
"""

from __future__ import annotations

import html
import json
import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from stoa.fields import name_of, refuse_placeholder, seconds_of, show
from stoa.text_files import decode_lines, misnamed, nfc, parse_json, read_table

Span = tuple[int, int]
# Other fields are the user's own and ignored; these would be ignored by mistake.
_MISTAKEN = {
    **dict.fromkeys(("start", "start_sec", "start_second"), "start_seconds"),
    **dict.fromkeys(("end", "end_sec", "end_second"), "end_seconds"),
    "boxes": "detections",
}
_REQUIRED = ("id", "video", "caption")
_OPTIONAL = ("split", "start_seconds", "end_seconds", "detections")
_DEFAULT_SPLIT = "train"


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


@dataclass
class RowCounts:
    """How many rows a manifest has.

    Attributes:
        rows: by split, in the order that they are found in.
        without_caption: by split, of these.
        first_without_caption: by split, the id of the first one.
    """

    rows: Counter[str] = field(default_factory=Counter)
    without_caption: Counter[str] = field(default_factory=Counter)
    first_without_caption: dict[str, str] = field(default_factory=dict)

    def add(self, row: ClipRow) -> None:
        self.rows[row.split] += 1
        if not row.captions:
            self.without_caption[row.split] += 1
            self.first_without_caption.setdefault(row.split, row.id)


def read_manifest(
    path: str | os.PathLike[str],
    *,
    split: str | None = None,
    on_skip: Callable[[str, str], None] | None = None,
    uncaptioned: bool = False,
    counts: RowCounts | None = None,
) -> list[ClipRow]:
    """Read a manifest.

    Args:
        path: a ``.jsonl`` or ``.csv`` file.
        split: keep the rows of this split only.
        on_skip: called with (clip id, reason) for each row left out because all its captions are empty.
        uncaptioned: keep these rows too.
        counts: takes the rows of all splits.

    Raises:
        ValueError: the file is missing, a row lacks a field or holds a bad value (the message names
            file, row and field), ids repeat, or nothing is left.
    """
    path = Path(path)
    rows: list[ClipRow] = []
    seen: dict[str, str] = {}
    counts = RowCounts() if counts is None else counts
    for where, row in manifest_rows(path):
        if row.id in seen:
            raise ValueError(f"{where}: id {row.id!r} already stands in {seen[row.id]}; ids must be unique")
        seen[row.id] = where
        counts.add(row)
        if split is not None and row.split != split:
            continue
        if not row.captions and not uncaptioned:
            if on_skip is not None:
                on_skip(row.id, "empty caption")
            continue
        rows.append(row)
    if not rows:
        silent = counts.without_caption.total() if split is None else counts.without_caption[split]
        wanted = "" if split is None else f" with split {split!r} (splits found: {sorted(counts.rows)})"
        why = "" if counts.rows else ": the file is empty"
        raise ValueError(
            f"manifest {path} has no usable row{wanted}{f': all {silent} lack a caption' if silent else why}"
        )
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
    readers = {".jsonl": jsonl_rows, ".csv": _csv_rows, ".tsv": _csv_rows}
    suffix = path.suffix.lower()
    if suffix not in readers:
        fix = f"; of a JSON list one is made by: jq -c '.[]' {path} > {path.with_suffix('.jsonl')}"
        raise ValueError(
            f"manifest {path} has suffix {path.suffix!r}; expected .jsonl or .csv{fix if suffix == '.json' else ''}"
        )
    for where, raw in readers[suffix](path):
        for key in ("id", "video", "caption", *_OPTIONAL):
            refuse_placeholder(raw.get(key), key, where)
        for text in raw["captions"] if isinstance(raw.get("captions"), list) else ():
            refuse_placeholder(text, "captions", where)
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
    begun = False
    with open(path, "rb") as file:
        for number, line in decode_lines(file, str(path), unit="row"):
            where, text = f"{path}, row {number}", line.strip()
            if not text:
                continue
            if not begun and (text == "{" or text[0] == "[" and not text.endswith("]")):
                raise ValueError(f"{where}: JSON over several lines; {_ONE_A_LINE.format(path)}")
            begun = True
            raw = parse_json(text, where)
            if isinstance(raw, list):
                raise ValueError(f"{where}: expected a JSON object, got list; {_ONE_A_LINE.format(path)}")
            if not isinstance(raw, dict):
                raise ValueError(f"{where}: expected a JSON object, got {type(raw).__name__}")
            yield where, raw


_ONE_A_LINE = (
    "a .jsonl file has one object a line: jq -c 'if type == \"array\" then .[] else . end' {0} makes it of a list"
)


def _csv_rows(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    with open(path, "rb") as file:
        for where, header, row in read_table(file, str(path), _REQUIRED, _OPTIONAL):
            cells = [cell.strip() for cell in row]
            extra = [cell for name, cell in zip(header, cells, strict=False) if not name] + cells[len(header) :]
            if any(extra):  # but for a spreadsheet's empty cells
                raise ValueError(
                    f"{where}: more cells than columns; put a text that holds a comma, or what else is "
                    "between cells, in double quotes"
                )
            if len(cells) <= header.index("caption"):
                raise ValueError(
                    f"{where}: {len(cells)} cells for the {len(header)} columns, and none for 'caption'; the row is "
                    "cut, or an empty cell is left out"
                )
            # Of an empty cell and a missing one nothing is known: an empty caption.
            yield where, {"captions": []} | {name: cell for name, cell in zip(header, cells, strict=False) if cell}


def row_from_json(raw: dict[str, Any], where: str) -> ClipRow:
    """The row that ``raw`` describes.

    Raises:
        ValueError: a field is missing or holds a bad value; the message starts with ``where``.
    """
    for key in ("id", "video"):
        if raw.get(key) is None or raw[key] == "":
            near = misnamed(key, raw.keys() - {*_REQUIRED, *_OPTIONAL, "captions"})
            hint = f"rename {near!r} to {key!r}" if near else "every row needs 'id', 'video' and 'captions'"
            raise ValueError(f"{where}: field {key!r} is missing or empty; {hint}")
    for key, meant in _MISTAKEN.items():
        if key in raw:
            raise ValueError(f"{where}: field {key!r} has no meaning here; write {meant!r}")
    if raw.get("caption") is not None and raw.get("captions"):
        raise ValueError(f"{where}: fields 'caption' and 'captions' both hold something; keep one of them")
    texts: Any
    if raw.get("caption") is not None:
        texts = [raw["caption"]]
    elif "captions" in raw or "caption" in raw:
        texts = [] if raw.get("captions") is None else raw["captions"]
        if not isinstance(texts, list):
            raise ValueError(
                f"{where}: field 'captions' is a {type(texts).__name__}; expected a list (or use 'caption' for one)"
            )
    else:
        near = misnamed("caption", raw.keys() - {*_REQUIRED, *_OPTIONAL})
        hint = f"rename {near!r} to 'caption'" if near else "every row needs 'id', 'video' and 'captions'"
        raise ValueError(f"{where}: field 'captions' is missing; {hint}")
    given = (_parse_caption(text, where) for text in texts if text is not None)
    video, detections = raw["video"], raw.get("detections")
    if not isinstance(video, str):
        video = name_of(video, "video", where)
    for key, path in (("video", video), ("detections", detections)):
        if isinstance(path, str) and not _is_path(path):
            raise ValueError(f"{where}: field {key!r} is {show(path)}, which is no path: it holds half a character")
    if not isinstance(detections, str | None) or detections == "":
        raise ValueError(
            f"{where}: field 'detections' is {show(detections)}; expected the path of a .npz file, or null"
        )
    start, end = (seconds_of(raw.get(key), key, where) for key in ("start_seconds", "end_seconds"))
    if end is not None and end <= (start or 0):
        raise ValueError(f"{where}: end_seconds {end} is not after start_seconds {start or 0.0}")
    split = raw.get("split")
    return ClipRow(
        id=name_of(raw["id"], "id", where),
        video=video,
        captions=tuple(caption for caption in given if html.unescape(caption.text).strip()),
        split=_DEFAULT_SPLIT if split is None else name_of(split, "split", where),
        start_seconds=start,
        end_seconds=end,
        detections=detections,
    )


def _is_path(text: str) -> bool:
    """Of a system whose names are bytes; those that are no UTF-8 are spelled with halves of surrogates."""
    try:
        os.fsencode(text)
    except UnicodeEncodeError:
        return False
    return True


def _parse_caption(raw: Any, where: str) -> Caption:
    if isinstance(raw, str):
        return Caption(nfc(raw))
    if not isinstance(raw, dict) or not isinstance(raw.get("text"), str):
        raise ValueError(f"{where}: caption {show(raw)} is neither a string nor an object with 'text'")
    text = raw["text"]
    nouns, verbs = (_parse_spans(raw, kind, text, where) for kind in ("nouns", "verbs"))
    labels = raw.get("noun_labels")
    if labels is None:
        labels = ()
    if not isinstance(labels, (list, tuple)) or not all(type(label) is int and label >= -1 for label in labels):
        raise ValueError(f"{where}: noun_labels is {labels!r}; expected a list of class indices, -1 for unknown")
    if labels and len(labels) != len(nouns):
        raise ValueError(f"{where}: noun_labels has {len(labels)} entries for {len(nouns)} nouns; give each one")
    return composed(Caption(text, nouns, verbs, tuple(labels)))


def _parse_spans(raw: dict[str, Any], kind: str, text: str, where: str) -> tuple[Span, ...]:
    spans = raw.get(kind)
    if spans is None:
        return ()
    try:
        found = tuple((start, end) for start, end in spans)
        if not all(type(edge) is int for span in found for edge in span):
            raise TypeError
    except (TypeError, ValueError):
        raise ValueError(f"{where}: {kind} is {show(spans)}; expected a list of [start, end] pairs") from None
    for start, end in found:
        if not 0 <= start < end <= len(text):
            raise ValueError(
                f"{where}: {kind} span [{start}, {end}) lies outside the caption of {len(text)} characters"
            )
    return found


def composed(caption: Caption) -> Caption:
    """The caption in Unicode NFC, with its spans moved; a span that ends inside a letter takes in the whole of it."""
    text, whole = caption.text, nfc(caption.text)
    if whole == text:
        return caption

    def moved(spans: tuple[Span, ...]) -> tuple[Span, ...]:
        def apart(cut: int) -> bool:
            return nfc(text[:cut]) + nfc(text[cut:]) == whole

        starts = (next(cut for cut in range(start, -1, -1) if apart(cut)) for start, _ in spans)
        ends = (next(cut for cut in range(end, len(text) + 1) if apart(cut)) for _, end in spans)
        return tuple((len(nfc(text[:start])), len(nfc(text[:end]))) for start, end in zip(starts, ends, strict=True))

    return replace(caption, text=whole, nouns=moved(caption.nouns), verbs=moved(caption.verbs))
