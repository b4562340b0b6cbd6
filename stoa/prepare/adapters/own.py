"""Clips of one's own: a manifest, JSONL or CSV, in the form of :mod:`stoa.manifest`, read row by row."""

from __future__ import annotations

from pathlib import Path

from stoa.manifest import manifest_rows
from stoa.prepare.adapters.base import Annotations


def own(path: Path) -> Annotations:
    """The rows as they are; ``video`` keeps its suffix and folders.

    Raises:
        ValueError: it is no file.
    """
    if not path.is_file():
        raise ValueError(f"manifest: {path} is no .jsonl or .csv file; pass the manifest itself")
    return Annotations("manifest", lambda: manifest_rows(path))
