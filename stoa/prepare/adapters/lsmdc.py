"""LSMDC 2016: lines of clip id, start and end as aligned, start and end as extracted, and sentence, between tabs.

A clip is a file of its own, ``<movie>/<clip id>.avi``, cut already. Several sentences may share a clip id. The quotes
in a sentence are its own: the files have no quoting. The layout is that of the README in the challenge's download.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path

from stoa.data.published import COUNTS
from stoa.manifest import Caption, ClipRow
from stoa.prepare.adapters.base import Annotations, Clips
from stoa.prepare.adapters.files import Source, chained, read_names, split_sources

_FILES = {
    "train": ("LSMDC16_annos_training.csv",),
    "val": ("LSMDC16_annos_val.csv",),
    "test": ("LSMDC16_challenge_1000_publictect.csv",),
}
_CELLS = 6


def lsmdc(folder: Path) -> Annotations:
    """LSMDC: a tab-separated file a split, with clip, times and sentence."""
    sources, absent = split_sources(folder, _FILES, "lsmdc")
    return Annotations(
        "lsmdc",
        lambda: chained(partial(_rows, source, split) for split, source in sources.items()),
        published=COUNTS["lsmdc"],
        absent=absent,
    )


def _rows(source: Source, split: str) -> Clips:
    clips: dict[str, tuple[str, list[Caption]]] = {}
    for where, line in read_names(source):
        cells = line.split("\t", _CELLS - 1)
        # An empty sentence leaves no last tab on a line whose blanks were trimmed.
        if len(cells) < _CELLS - 1:
            raise ValueError(
                f"{where}: {len(cells)} cells; expected {_CELLS} between tabs: clip id, start and end as aligned, "
                f"start and end as extracted, sentence"
            )
        sentence = Caption(cells[-1] if len(cells) == _CELLS else "")
        clips.setdefault(cells[0], (where, []))[1].append(sentence)
    for id, (where, captions) in clips.items():
        yield where, ClipRow(id, id, tuple(captions), split)
