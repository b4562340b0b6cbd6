"""Clips of one's own: a manifest, JSONL or CSV, in the form of :mod:`stoa.manifest`, read row by row."""

from __future__ import annotations

from pathlib import Path

from stoa.manifest import row_from_json
from stoa.prepare.adapters.base import Annotations, Clips
from stoa.prepare.adapters.files import Source, read_csv, read_jsonl


def own(path: Path) -> Annotations:
    """The rows as they are; ``video`` keeps its suffix and folders.

    Raises:
        ValueError: the file is neither JSONL nor CSV.
    """
    if path.suffix not in (".jsonl", ".csv") or not path.is_file():
        raise ValueError(f"manifest: {path} is no .jsonl or .csv file; pass the manifest itself")

    def rows() -> Clips:
        if path.suffix == ".jsonl":
            for where, raw in read_jsonl(Source(path)):
                yield where, row_from_json(raw, where)
        else:
            for where, cells in read_csv(Source(path), ("id", "video", "caption")):
                # An empty cell and a missing one look the same: an empty caption.
                filled = {column: cell for column, cell in cells.items() if cell}
                yield where, row_from_json({"captions": [], **filled}, where)

    return Annotations("manifest", rows)
