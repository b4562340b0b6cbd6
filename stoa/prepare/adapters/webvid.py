"""WebVid: CSV files with ``videoid``, ``name`` (the caption) and columns that are not needed here.

Videos are stored as ``<page_dir>/<videoid>.mp4``; the id alone tells them apart. Of the published files,
``results_2M_val.csv`` and its like are the split ``val``, all others ``train``.
"""

from __future__ import annotations

import re
from functools import partial
from pathlib import Path

from stoa.manifest import Caption, ClipRow
from stoa.prepare.adapters.base import Annotations, Clips
from stoa.prepare.adapters.files import Source, chained, read_csv


def webvid(path: Path) -> Annotations:
    """One CSV file, or a folder: its ``results_*.csv`` and the parts in ``results_*/``, else all CSV files.

    Raises:
        ValueError: there is no CSV file.
    """
    files = [path] if path.is_file() else _csv_files(path)
    if not files:
        raise ValueError(f"webvid: no CSV file in {path}; put results_2M_train.csv or its like there")
    return Annotations("webvid", lambda: chained(partial(_rows, file) for file in files))


def _csv_files(folder: Path) -> list[Path]:
    published = sorted([*folder.glob("results_*.csv"), *folder.glob("results_*/*.csv")])
    return published or sorted(folder.glob("*.csv")) or sorted(folder.glob("*/*.csv"))


def _split_in(name: str) -> str | None:
    words = set(re.split(r"[^a-z]+", name.lower()))
    return "val" if {"val", "validation"} & words else "train" if "train" in words else None


def _rows(path: Path) -> Clips:
    # A part of a split is named by a number, and its folder by the split.
    split = _split_in(path.stem) or _split_in(path.parent.name) or "train"
    for where, cells in read_csv(Source(path), ("videoid", "name")):
        if not cells["videoid"]:
            raise ValueError(f"{where}: column 'videoid' is empty; every row needs the id of its video")
        yield where, ClipRow(cells["videoid"], cells["videoid"], (Caption(cells["name"]),), split)
