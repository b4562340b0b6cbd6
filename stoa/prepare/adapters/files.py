"""Published files: found in a folder or in a zip archive there, and read with errors that name the place."""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stoa.fields import show
from stoa.text_files import decode, decode_lines, nfc, parse_json, read_table


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


def read_names(source: Source) -> Iterator[tuple[str, str]]:
    """(place, name) for every line that is not blank."""
    for number, line in decode_lines(source.lines(), str(source)):
        if name := nfc(line).strip():
            yield f"{source}, line {number}", name


def read_csv(source: Source, columns: Sequence[str]) -> Iterator[tuple[str, dict[str, str]]]:
    """(place, cells by column) for every row of a CSV file whose header holds at least ``columns``."""
    for where, header, row in read_table(source.lines(), str(source), columns):
        if len(row) != len(header):
            raise ValueError(
                f"{where}: {len(row)} cells for the {len(header)} columns; quote cells that hold a comma, "
                f"or fetch the file again if it was cut"
            )
        yield where, {name: nfc(cell) for name, cell in zip(header, row, strict=True)}


def read_jsonl(source: Source) -> Iterator[tuple[str, dict[str, Any]]]:
    """(place, object) for every line that is not blank."""
    for where, line in read_names(source):
        yield where, as_object(parse_json(line, where), where)


def read_json(source: Source) -> Any:
    """The value of a JSON file; a key that stands twice in one object is an error."""
    return parse_json(decode(b"".join(source.lines()), str(source)), str(source))


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
    """The text under a key, in Unicode NFC; whole numbers become texts."""
    value = raw.get(key)
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, (str, int)):
        raise ValueError(f"{where}: key {key!r} is {show(value)}; expected a text")
    return nfc(str(value))


def texts_of(values: Any, where: str) -> list[str]:
    texts: list[str] = as_list(values, where)
    for text in texts:
        if not isinstance(text, str):
            raise ValueError(f"{where}: {show(text)} is not a text")
    return list(map(nfc, texts))


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
