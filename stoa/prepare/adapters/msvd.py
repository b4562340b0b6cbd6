"""MSVD: ``captions_msvd.json``, the captions of each clip by the stem of its file, and a list of stems a split."""

from __future__ import annotations

from pathlib import Path

from stoa.data.published import COUNTS
from stoa.manifest import Caption, ClipRow
from stoa.prepare.adapters.base import Annotations, Clips
from stoa.prepare.adapters.files import as_object, read_json, read_names, require_source, split_sources, texts_of


def msvd(folder: Path) -> Annotations:
    """MSVD: all captions of a clip in ``captions_msvd.json``, the clips of a split in ``<split>_list.txt``."""
    described = require_source(folder, "captions_msvd.json", "msvd")
    lists, absent = split_sources(folder, {s: (f"{s}_list.txt",) for s in ("train", "val", "test")}, "msvd")

    def rows() -> Clips:
        captions = as_object(read_json(described), str(described))
        for split, source in lists.items():
            for where, stem in read_names(source):
                texts = texts_of(captions.get(stem, []), f"{described}, key {stem!r}")
                yield where, ClipRow(stem, stem, tuple(map(Caption, texts)), split)

    return Annotations("msvd", rows, published=COUNTS["msvd"], absent=absent)
