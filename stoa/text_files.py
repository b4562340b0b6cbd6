"""Text files as people have them: with a byte order mark or without, with composed letters or decomposed ones, CSV with
any of the usual delimiters."""

from __future__ import annotations

import codecs
import csv
import difflib
import json
import os
import re
import unicodedata
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from stoa.files import read_small

_OTHER_ENCODINGS = (
    (codecs.BOM_UTF32_LE, "UTF-32"),
    (codecs.BOM_UTF32_BE, "UTF-32"),
    (codecs.BOM_UTF16_LE, "UTF-16"),
    (codecs.BOM_UTF16_BE, "UTF-16"),
)
_DELIMITERS = ",;\t|"
# A longer field is a quote that is never closed; without a limit it would swallow the rest of a file of gigabytes.
_LONGEST_FIELD_CHARACTERS = 1 << 24
_NAMES_ELSEWHERE = {
    "id": ("clip_id", "video_id", "videoid", "clip", "vid", "uid", "key", "name", "image_id", "sample_id"),
    "video": ("path", "file", "filename", "file_name", "filepath", "video_path", "video_file", "clip_path", "url"),
    "caption": ("sentence", "text", "captions", "description", "desc", "title", "annotation", "sentences", "texts"),
    "clip": ("video_id", "clip_id", "video", "videoid", "vid", "image_id"),
    "question": ("text", "query", "sentence"),
    "answer": ("answers", "label", "target"),
    "type": ("question_type", "answer_type", "kind"),
}


def nfc(text: str) -> str:
    """The text with composed letters: as texts are compared, whichever way they were typed."""
    return text if text.isascii() else unicodedata.normalize("NFC", text)


def decode(data: bytes, where: str, *, start: bool = True) -> str:
    """UTF-8 as text.

    Args:
        where: begins the message of an error.
        start: whether the data begin a file, so that a byte order mark may stand there.

    Raises:
        ValueError: the data are not UTF-8.
    """
    if start:
        for mark, name in _OTHER_ENCODINGS:
            if data.startswith(mark):
                raise ValueError(f"{where}: the file is {name}, not UTF-8; re-save it as UTF-8")
        if b"\0" in data[:4]:
            raise ValueError(f"{where}: the file begins with a zero byte, as UTF-16 does; re-save it as UTF-8")
    try:
        return data.decode("utf-8-sig" if start else "utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(
            f"{where}: not UTF-8 ({error.reason} at byte {error.start}); re-save the file as UTF-8"
        ) from None


def decode_lines(lines: Iterable[bytes], name: str, *, unit: str = "line") -> Iterator[tuple[int, str]]:
    """(number from 1, line with its end) for every line of a file; ``unit`` is what messages call one.

    Raises:
        ValueError: a line is not UTF-8.
    """
    for number, line in enumerate(lines, start=1):
        yield number, decode(line, f"{name}, {unit} {number}", start=number == 1)


def read_text(path: str | os.PathLike[str], name: str | None = None) -> str:
    """A whole file; ``name`` is what messages call it.

    Raises:
        ValueError: it is not UTF-8.
        OSError: it cannot be read.
    """
    return decode(Path(path).read_bytes(), str(path) if name is None else name)


def parse_json(text: str, where: str) -> Any:
    """The value of a JSON text.

    Raises:
        ValueError: it is not valid, or a key stands twice in one object; the message begins with ``where``.
    """
    try:
        return json.loads(text, object_pairs_hook=lambda pairs: _unique_keys(pairs, where))
    except json.JSONDecodeError as error:
        line = f", line {error.lineno}" if error.lineno > 1 else ""
        raise ValueError(
            f"{where}: not valid JSON ({error.msg} at character {error.pos} of {len(text)}{line}); "
            "fetch the file again if it was cut"
        ) from None
    except RecursionError:
        raise ValueError(f"{where}: not valid JSON (brackets are nested too deeply)") from None


def read_json(path: str | os.PathLike[str], name: str | None = None) -> Any:
    """The value of a JSON file; raises as :func:`read_text` and :func:`parse_json` do."""
    return parse_json(read_text(path, name), str(path) if name is None else name)


def read_own(path: Path, keys: Collection[str], then: str) -> dict[str, Any]:
    """The JSON object of a file that this project has written, which a disk may have damaged since.

    Args:
        path: of it.
        keys: that it has to have.
        then: what to do where it is damaged.

    Raises:
        ValueError: it is; the message names the file.
        OSError: it cannot be read.
    """
    try:
        found = json.loads(read_small(path))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is damaged ({' '.join(str(error).split())[:120]}); {then}") from None
    if not isinstance(found, dict) or (lost := sorted(set(keys) - found.keys())):
        what = f"it has no {lost[0]!r}" if isinstance(found, dict) else f"it is a {type(found).__name__}"
        raise ValueError(f"{path} is damaged ({what}); {then}")
    return found


def read_table(
    lines: Iterable[bytes], name: str, required: Sequence[str], known: Sequence[str] = ()
) -> Iterator[tuple[str, list[str], list[str]]]:
    """(place, header, cells) for every row of a CSV file, whichever of comma, semicolon, tab and bar is between cells.

    Args:
        lines: of the file.
        name: of the file, for messages.
        required: columns that the header must have.
        known: others that it may have. The delimiter is the one that finds most of all these.

    Raises:
        ValueError: the file is empty or not valid, or its header lacks a column or has one twice.
    """
    csv.field_size_limit(_LONGEST_FIELD_CHARACTERS)
    texts = (part for _, line in decode_lines(lines, name) for part in re.split(r"(?<=\r)(?!\n)", line) if part)
    first, skipped = next(texts, ""), 0
    while first and (not first.strip() or re.fullmatch(r"sep=.\s*", first)):  # a spreadsheet's line for itself
        first, skipped = next(texts, ""), skipped + 1
    if not first:
        raise ValueError(f"{name}: the file is empty; expected a header with {', '.join(required)}")

    def found(delimiter: str) -> int:
        names = {cell.strip().strip('"') for cell in first.split(delimiter)}
        return len(names & {*required, *known})

    delimiter = max(_DELIMITERS, key=found)  # of equals the first, which is the comma
    reader = csv.reader(_chain(first, texts), delimiter=delimiter, skipinitialspace=delimiter != "\t", strict=True)
    try:
        header = [nfc(cell.strip()) for cell in next(reader)]
        _require_columns(header, required, name)
        for row in reader:
            if row:
                yield f"{name}, line {reader.line_num + skipped}", header, row
    except csv.Error as error:
        raise ValueError(f"{name}, line {reader.line_num + skipped}: not valid CSV ({error})") from None


def misnamed(wanted: str, names: Iterable[str]) -> str | None:
    """Which of the names is probably meant for the wanted one."""
    plain = {name.strip().lower().replace(" ", "_").replace("-", "_"): name for name in names}
    for other in (wanted, *_NAMES_ELSEWHERE.get(wanted, ())):
        if other in plain:
            return plain[other]
    near = difflib.get_close_matches(wanted, plain, n=1, cutoff=0.75)
    return plain[near[0]] if near else None


def on_disk(path: str | os.PathLike[str]) -> Path:
    """A path as the file system spells it, where that differs in composed and decomposed letters alone; else the path
    itself."""
    path = Path(path)
    if str(path).isascii() or os.path.exists(path):
        return path
    here = Path(path.anchor)
    for part in path.parts[len(here.parts) :]:
        spelled = (unicodedata.normalize(form, part) for form in ("NFC", "NFD"))
        here /= next((name for name in (part, *spelled) if os.path.exists(here / name)), part)
    return here if os.path.exists(here) else path


def _unique_keys(pairs: list[tuple[str, Any]], where: str) -> Mapping[str, Any]:
    out = dict(pairs)
    if len(out) != len(pairs):
        seen: set[str] = set()
        for place, (key, _) in enumerate(pairs, start=1):
            if key in seen:
                first = [k for k, _ in pairs].index(key) + 1
                raise ValueError(f"{where}: key {key!r} stands twice, as entry {first} and as entry {place}; keep one")
            seen.add(key)
    return out


def _chain(first: str, rest: Iterator[str]) -> Iterator[str]:
    yield first
    yield from rest


def _require_columns(header: list[str], required: Sequence[str], name: str) -> None:
    for column in required:
        if column in header:
            continue
        near = misnamed(column, [other for other in header if other not in required])
        hint = f"; rename {near!r} to {column!r}" if near else ""
        raise ValueError(f"{name}: column {column!r} is missing; the columns are {', '.join(header)}{hint}")
    twice = next((column for column in header if column and header.count(column) > 1), None)
    if twice is not None:
        raise ValueError(f"{name}: column {twice!r} stands twice in the header; rename or remove one")
