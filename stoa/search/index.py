"""An index of windows, in LanceDB: atomic commits, read by exact scan.

A folder holds one index a model. Its tables are ``windows-KEY`` and ``files-KEY``, where the key is of the model's
weights, and ``KEY.json`` says how it was made. A file stands in the second table once all of its windows do in the
first; windows of one that does not are those of a call that was ended, and are kept for the next.

Shape legend: W windows, d joint width.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from stoa.files import write_whole, writing
from stoa.search.config import WindowConfig
from stoa.search.windows import Window
from stoa.text_files import read_own

if TYPE_CHECKING:
    import lancedb
    import pyarrow as pa

VERSION = 1
_FACTS = {"version", "model", "width", "videos", "detections", "windows", "threshold"}
_COMMITS_BETWEEN_MERGES = 32


class FileState(NamedTuple):
    """A video as it was when it was indexed.

    Attributes:
        number: of the file, which no other one ever has in an index of this folder.
        video: path, from the folder of videos.
        size_bytes, mtime_ns: by which a change is seen.
        windows: that were indexed.
        still: that were left out, as nothing moves in them.
        problem: why it, or a part of it, could not be read; empty if all could.
    """

    number: int
    video: str
    size_bytes: int
    mtime_ns: int
    windows: int
    still: int
    problem: str


class Begun(NamedTuple):
    """A file with windows: its number, and those that are there."""

    number: int
    windows: set[Window]


class Sources(NamedTuple):
    """What an index is made of.

    Attributes:
        videos: folder of the videos.
        detections: folder of their objects as ``stoa detect`` writes them, each by the path of its video; none shows
            the model none.
        windows: how videos are cut.
    """

    videos: Path
    detections: Path | None
    windows: WindowConfig

    def said(self) -> str:
        still = "without" if self.windows.skip_still else "with"
        boxes = "no objects" if self.detections is None else f"objects of {self.detections}"
        cut = f"{self.windows.seconds:g} s every {self.windows.step_seconds:g} s"
        return f"{self.videos}, {boxes}, windows of {cut} {still} still ones"

    def boxes_of(self, video: str) -> str | None:
        """Path of the objects of a video, if there are any."""
        path = None if self.detections is None else self.detections / Path(video).with_suffix(".npz")
        return str(path) if path is not None and path.is_file() else None


@dataclass(frozen=True)
class Vectors:
    """All windows of an index, in memory.

    Attributes:
        files_W: (W,) int64, numbers of their files.
        parts_W2: (W, 2) float64, start and end in seconds.
        vectors_Wd: (W, d) float32 of unit length.
    """

    files_W: np.ndarray
    parts_W2: np.ndarray
    vectors_Wd: np.ndarray

    def cosines(self, query_d: np.ndarray) -> np.ndarray:
        """(W,) float32, with a unit vector. An exact scan: a hundred thousand windows take some tens of ms."""
        return self.vectors_Wd @ query_d


class Index:
    """An index of one model.

    Args:
        folder: of the indices.
        model: key of the model's weights.
        width: d.

    Attributes:
        sources: what it is made of.
        threshold: see :mod:`stoa.search.threshold`; none before the first window.

    Raises:
        ValueError: there is none, it is damaged, or of another version.
    """

    def __init__(self, folder: Path, model: str, width: int) -> None:
        self.folder, self.model, self.width = folder, model, width
        self._facts_as_read = _stamp(folder / f"{model}.json")
        facts = _read_facts(folder / f"{model}.json")
        if facts["version"] != VERSION:
            raise ValueError(f"{folder} has version {facts['version']!r}; this reads {VERSION}: index the videos anew")
        if facts["model"] != model or facts["width"] != width:
            raise ValueError(
                f"{folder / f'{model}.json'} is of another model; delete {folder} and index the videos anew"
            )
        self.threshold = facts["threshold"]
        self.sources = _sources(folder, facts)
        database = _connect(folder)
        self._windows = _table(database, folder, f"windows-{model}", _window_schema(width))
        self._files = _table(database, folder, f"files-{model}", _file_schema())
        self._commits = 0

    @classmethod
    def made(cls, folder: Path, model: str, width: int, sources: Sources) -> Index:
        """One that is there, or a new one.

        Raises:
            ValueError: it is there, and was made otherwise.
        """
        path = folder / f"{model}.json"
        if not path.is_file():
            folder.mkdir(parents=True, exist_ok=True)
            _write_facts(path, model, width, sources, None)
        index = cls(folder, model, width)
        if index.sources != sources:
            raise ValueError(
                f"{folder} was made of {index.sources.said()}, not of {sources.said()}; index as before, or name "
                "another folder with --index"
            )
        return index

    def finished_since(self) -> Index | None:
        """This index, if another one has called :meth:`finish` since it was opened. One that is of other videos now, or
        is being made anew, is not.

        Raises:
            ValueError, OSError: it cannot be read, or is gone.
        """
        path = self.folder / f"{self.model}.json"
        if _stamp(path) == self._facts_as_read or _read_facts(path)["threshold"] is None:
            return None
        now = Index(self.folder, self.model, self.width)
        return now if now.sources.videos == self.sources.videos else None

    def files(self) -> dict[str, FileState]:
        """By path, those that are done."""
        return {row["video"]: FileState(**row) for row in _read(self._files).to_pylist()}

    def begun(self) -> dict[tuple[str, int, int], Begun]:
        """By path, size and time of change: files with windows, those of a call that was ended too."""
        found: dict[tuple[str, int, int], Begun] = {}
        names = ["video", "size_bytes", "mtime_ns", "file", "start_seconds", "end_seconds"]
        columns = _read(self._windows).select(names)
        for video, size, changed, number, start, end in zip(*(column.to_pylist() for column in columns), strict=True):
            found.setdefault((video, size, changed), Begun(number, set())).windows.add(Window(start, end))
        return found

    def next_number(self) -> int:
        """For a file that has none. Those of files that are gone, or of an index that was deleted, are not given again,
        since a page may still show them: numbers follow the clock, in milliseconds."""
        import pyarrow.compute as pc

        taken = [_read(table)[name] for table, name in ((self._files, "number"), (self._windows, "file"))]
        largest = max((pc.max(column).as_py() for column in taken if len(column)), default=-1)
        return max(1 + largest, time.time_ns() // 1_000_000)

    def add_windows(self, rows: Sequence[tuple[FileState, Window]], vectors_Wd: np.ndarray) -> None:
        """Commit windows."""
        import pyarrow as pa

        assert vectors_Wd.shape == (len(rows), self.width)
        flat = pa.array(np.ascontiguousarray(vectors_Wd, dtype=np.float32).reshape(-1))
        columns = {
            "file": [file.number for file, _ in rows],
            "video": [file.video for file, _ in rows],
            "size_bytes": [file.size_bytes for file, _ in rows],
            "mtime_ns": [file.mtime_ns for file, _ in rows],
            "start_seconds": [window.start_seconds for _, window in rows],
            "end_seconds": [window.end_seconds for _, window in rows],
            "vector": pa.FixedSizeListArray.from_arrays(flat, self.width),
        }
        with self._writing():
            self._windows.add(pa.table(columns, schema=_window_schema(self.width)))
            self._committed()

    def add_files(self, files: Sequence[FileState]) -> None:
        """Commit files, all of whose windows are there."""
        import pyarrow as pa

        with self._writing():
            self._files.add(pa.Table.from_pylist([file._asdict() for file in files], schema=_file_schema()))
            self._committed()

    def remove(self, videos: Iterable[str]) -> None:
        """Files and their windows; the files first, so that none is ever there without its windows."""
        names = list(videos)
        for first in range(0, len(names), 500):
            those = f"video IN ({', '.join(map(_quoted, names[first : first + 500]))})"
            with self._writing():
                self._files.delete(those)
                self._windows.delete(those)

    def remove_leftovers(self, kept: Iterable[int]) -> None:
        """Windows of files that are neither done nor, by their numbers, among ``kept``."""
        known = {file.number for file in self.files().values()} | set(kept)
        left = sorted(set(_read(self._windows)["file"].to_pylist()) - known)
        if left:
            with self._writing():
                self._windows.delete(f"file IN ({', '.join(map(str, left))})")

    def finish(self, threshold: float | None) -> None:
        """Note the threshold, and merge what many commits have left."""
        with self._writing():
            self._merge()
        self.threshold = threshold
        path = self.folder / f"{self.model}.json"
        _write_facts(path, self.model, self.width, self.sources, threshold)
        self._facts_as_read = _stamp(path)

    def vectors(self) -> Vectors:
        """All windows of files that are done, to search in."""
        table = _read(self._windows)
        done = {state.number for state in self.files().values()}
        files_W = table["file"].to_numpy()
        vectors_Wd = table["vector"].combine_chunks().flatten().to_numpy(zero_copy_only=False)
        parts_W2 = np.stack([table[name].to_numpy() for name in ("start_seconds", "end_seconds")], axis=1)
        kept_W = np.isin(files_W, list(done))
        return Vectors(files_W[kept_W], parts_W2[kept_W], vectors_Wd.reshape(-1, self.width)[kept_W])

    def _writing(self) -> AbstractContextManager[None]:
        return writing(self.folder, then="what was indexed before stays; index again to go on")

    def _committed(self) -> None:
        self._commits += 1
        if self._commits % _COMMITS_BETWEEN_MERGES == 0:
            self._merge()

    def _merge(self) -> None:
        for table in (self._windows, self._files):
            table.optimize()


def models_in(folder: Path) -> list[str]:
    """Keys of the models that the indices of a folder are of."""
    return sorted(path.stem for path in folder.glob("*.json")) if folder.is_dir() else []


def _connect(folder: Path) -> lancedb.DBConnection:
    try:
        import lancedb
    except ImportError:
        raise ValueError("an index needs LanceDB: pip install 'stoa[search]'") from None
    return lancedb.connect(folder)


def _table(database: lancedb.DBConnection, folder: Path, name: str, schema: pa.Schema) -> Any:
    try:
        table = database.create_table(name, schema=schema, exist_ok=True)
        table.count_rows()
    except (OSError, RuntimeError, ValueError) as error:
        first = " ".join(str(error).split())[:200]
        raise ValueError(f"{folder} holds an index that cannot be read ({first}); delete it and index anew") from None
    return table


def _read(table: Any) -> pa.Table:
    """All rows.

    Raises:
        ValueError: a file of it is damaged or gone.
    """
    try:
        return table.to_arrow()
    except (OSError, RuntimeError, ValueError) as error:
        first = " ".join(str(error).split())[:200]
        raise ValueError(
            f"the table {table.name} of an index cannot be read ({first}); index the videos anew"
        ) from None


def _window_schema(width: int) -> pa.Schema:
    import pyarrow as pa

    return pa.schema(
        [
            pa.field("file", pa.int64()),
            pa.field("video", pa.string()),
            pa.field("size_bytes", pa.int64()),
            pa.field("mtime_ns", pa.int64()),
            pa.field("start_seconds", pa.float64()),
            pa.field("end_seconds", pa.float64()),
            pa.field("vector", pa.list_(pa.float32(), width)),
        ]
    )


def _file_schema() -> pa.Schema:
    import pyarrow as pa

    numbers = [pa.field(name, pa.int64()) for name in ("size_bytes", "mtime_ns", "windows", "still")]
    return pa.schema(
        [pa.field("number", pa.int64()), pa.field("video", pa.string()), *numbers, pa.field("problem", pa.string())]
    )


def _read_facts(path: Path) -> dict[str, Any]:
    if not path.is_file():
        others = models_in(path.parent)
        if others:
            raise ValueError(
                f"{path.parent} holds an index of another model ({', '.join(others)}, this one is {path.stem}); search "
                "with the model that it was made with, or index the videos with this one"
            )
        raise ValueError(f"{path.parent} holds no index; make one with stoa index FOLDER")
    return read_own(path, _FACTS, f"delete {path.parent} and index the videos anew")


def _stamp(path: Path) -> tuple[int, int] | None:
    """Differs once a file has been put in its place."""
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_ino, status.st_mtime_ns


def _sources(folder: Path, facts: dict[str, Any]) -> Sources:
    """Of the facts of an index, which a disk may have damaged."""
    try:
        folders = [None if facts[name] is None else _beside(folder, facts[name]) for name in ("videos", "detections")]
        assert folders[0] is not None and isinstance(facts["threshold"], float | None)
        return Sources(folders[0], folders[1], WindowConfig(**facts["windows"]))
    except (AssertionError, TypeError, ValueError):
        raise ValueError(f"{folder} holds an index that is damaged; delete it and index the videos anew") from None


def _beside(folder: Path, way: str) -> Path:
    return Path(os.path.abspath(folder / way))


def _write_facts(path: Path, model: str, width: int, sources: Sources, threshold: float | None) -> None:
    """Folders by the way from the index to them, so that all may be moved together."""
    facts = {
        "version": VERSION,
        "model": model,
        "width": width,
        "videos": os.path.relpath(sources.videos, path.parent),
        "detections": None if sources.detections is None else os.path.relpath(sources.detections, path.parent),
        "windows": asdict(sources.windows),
        "threshold": threshold,
    }
    write_whole(path, json.dumps(facts, indent=2) + "\n")


def _quoted(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"
