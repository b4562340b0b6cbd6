"""Published files: found in a folder or in a zip archive there, and read with errors that name the place."""

from __future__ import annotations

import csv
import json
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stoa.manifest import unique_keys

# A longer field is a quote that is never closed; without a limit it would swallow the rest of a file of gigabytes.
_LONGEST_FIELD_CHARACTERS = 1 << 24


@dataclass(frozen=True, slots=True)
class Source:
    """A file, or a member of a zip archive."""

    path: Path
    member: str | None = None

    def __str__(self) -> str:
        return f"{self.path}/{self.member}" if self.member else str(self.path)

    @property
    def name(self) -> str:
        return self.member.rpartition("/")[2] if self.member else self.path.name

    def lines(self) -> Iterator[bytes]:
        """The lines of the file, unpacked as they are read."""
        with _readable(self):
            if self.member is None:
                with open(self.path, "rb") as file:
                    yield from file
            else:
                with zipfile.ZipFile(self.path) as archive, archive.open(self.member) as member:
                    yield from member


def find_source(folder: Path, name: str) -> Source | None:
    """The file of this name in a folder, one level below, or in a zip archive of the folder.

    ``folder`` may also be the file itself, or the archive.
    """
    if folder.is_file():
        if folder.name == name:
            return Source(folder)
        return _in_archive(folder, name) if folder.suffix.lower() == ".zip" else None
    if (folder / name).is_file():
        return Source(folder / name)
    for archive in sorted(folder.glob("*.zip")):
        if source := _in_archive(archive, name):
            return source
    return next((Source(path) for path in sorted(folder.glob(f"*/{name}")) if path.is_file()), None)


def require_source(folder: Path, name: str, dataset: str) -> Source:
    """Like :func:`find_source`.

    Raises:
        ValueError: there is no such file.
    """
    source = find_source(folder, name)
    if source is None:
        raise ValueError(f"{dataset}: file {name} is missing in {folder}; put it there, zipped or not")
    return source


def split_sources(
    folder: Path, names: Mapping[str, tuple[str, ...]], dataset: str
) -> tuple[dict[str, Source], tuple[str, ...]]:
    """The file of each split, and the names of those that are absent.

    Args:
        names: for each split the names its file is published under; the first one found is taken.

    Raises:
        ValueError: no split has a file.
    """
    found: dict[str, Source] = {}
    for split, alternatives in names.items():
        sources = (find_source(folder, name) for name in alternatives)
        if source := next((source for source in sources if source), None):
            found[split] = source
    if not found:
        wanted = ", ".join(" or ".join(alternatives) for alternatives in names.values())
        raise ValueError(f"{dataset}: {folder} holds none of the files {wanted}; put at least one there, zipped or not")
    return found, tuple(" or ".join(names[split]) for split in names if split not in found)


def read_lines(source: Source) -> Iterator[tuple[int, str]]:
    """(number from 1, line with its end) for every line."""
    for number, line in enumerate(source.lines(), start=1):
        try:
            yield number, line.decode("utf-8-sig" if number == 1 else "utf-8")
        except UnicodeDecodeError as error:
            raise ValueError(
                f"{source}, line {number}: not UTF-8 ({error.reason} at byte {error.start} of the line); "
                f"re-save the file as UTF-8"
            ) from None


def read_names(source: Source) -> Iterator[tuple[str, str]]:
    """(place, name) for every line that is not blank."""
    for number, line in read_lines(source):
        if name := line.strip():
            yield f"{source}, line {number}", name


def read_csv(source: Source, columns: Sequence[str]) -> Iterator[tuple[str, dict[str, str]]]:
    """(place, cells by column) for every row of a CSV file whose header holds at least ``columns``."""
    csv.field_size_limit(_LONGEST_FIELD_CHARACTERS)
    reader = csv.reader((line for _, line in read_lines(source)), strict=True)
    header: list[str] | None = None
    name = str(source)
    try:
        for row in reader:
            if not row:
                continue
            if header is None:
                header = row
                missing = [column for column in columns if column not in header]
                if missing:
                    raise ValueError(f"{name}: column {missing[0]!r} is missing; the columns are {', '.join(header)}")
                continue
            where = f"{name}, line {reader.line_num}"
            if len(row) != len(header):
                raise ValueError(
                    f"{where}: {len(row)} cells for the {len(header)} columns; quote cells that hold a comma, "
                    f"or fetch the file again if it was cut"
                )
            yield where, dict(zip(header, row, strict=True))
    except csv.Error as error:
        raise ValueError(f"{name}, line {reader.line_num}: not valid CSV ({error})") from None
    if header is None:
        raise ValueError(f"{name}: the file is empty; expected a header with {', '.join(columns)}")


def read_jsonl(source: Source) -> Iterator[tuple[str, dict[str, Any]]]:
    """(place, object) for every line that is not blank."""
    for where, line in read_names(source):
        yield where, as_object(_parse_json(line, where), where)


def read_json(source: Source) -> Any:
    """The value of a JSON file; a key that stands twice in one object is an error."""
    raw = b"".join(source.lines())
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(
            f"{source}: not UTF-8 ({error.reason} at byte {error.start}); re-save the file as UTF-8"
        ) from None
    return _parse_json(text, str(source))


def read_json_list(source: Source) -> Iterator[tuple[str, dict[str, Any]]]:
    """(place, object) for every entry of a JSON file that is a list."""
    for number, entry in enumerate(as_list(read_json(source), str(source)), start=1):
        where = f"{source}, entry {number}"
        yield where, as_object(entry, where)


def as_object(value: Any, where: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise ValueError(f"{where}: expected a JSON object, got {type(value).__name__}")
    return value


def as_list(value: Any, where: str) -> list[Any]:
    if not isinstance(value, list):
        raise ValueError(f"{where}: expected a JSON list, got {type(value).__name__}")
    return value


def text_of(raw: dict[str, Any], key: str, where: str) -> str:
    """The text under a key; numbers become texts."""
    value = raw.get(key)
    if isinstance(value, bool) or not isinstance(value, (str, int)):
        raise ValueError(f"{where}: key {key!r} is {value!r}; expected a text")
    return str(value)


def texts_of(values: Any, where: str) -> list[str]:
    texts: list[str] = as_list(values, where)
    for text in texts:
        if not isinstance(text, str):
            raise ValueError(f"{where}: {text!r} is not a text")
    return texts


def chained(parts: Iterable[Callable[[], Iterator[tuple[str, Any]]]]) -> Iterator[tuple[str, Any]]:
    """The rows of several readers, each opened when its turn comes."""
    for part in parts:
        yield from part()


def _in_archive(path: Path, name: str) -> Source | None:
    with _readable(Source(path)), zipfile.ZipFile(path) as archive:
        members = [member for member in archive.namelist() if member.rpartition("/")[2] == name]
    # Archives made on a Mac carry a resource fork of every file.
    members = [member for member in members if not member.startswith("__MACOSX/")]
    return Source(path, members[0]) if members else None


@contextmanager
def _readable(source: Source) -> Iterator[None]:
    try:
        yield
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError) as error:
        raise ValueError(f"{source}: damaged or unreadable archive ({error}); fetch it again") from None


def _parse_json(text: str, where: str) -> Any:
    try:
        return json.loads(text, object_pairs_hook=lambda pairs: unique_keys(pairs, where))
    except json.JSONDecodeError as error:
        raise ValueError(
            f"{where}: not valid JSON ({error.msg} at character {error.pos} of {len(text)}); "
            f"fetch the file again if it was cut"
        ) from None
