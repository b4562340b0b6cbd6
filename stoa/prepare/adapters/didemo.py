"""DiDeMo: a JSON list of sentences a split, each about a moment of a video.

For retrieval the sentences of a video are one paragraph, in the order of the file, about its first 30 seconds: longer
videos were cut there when they were annotated.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path

from stoa.data.published import COUNTS
from stoa.manifest import Caption, ClipRow
from stoa.prepare.adapters.base import Annotations, Clips
from stoa.prepare.adapters.files import Source, chained, read_json_list, split_sources, text_of
from stoa.prepare.adapters.videos import video_stem

_ANNOTATED_SECONDS = 30.0


def didemo(folder: Path) -> Annotations:
    """DiDeMo: ``<split>_data.json``, whose moments of a video make one paragraph."""
    sources, absent = split_sources(folder, {s: (f"{s}_data.json",) for s in ("train", "val", "test")}, "didemo")
    return Annotations(
        "didemo",
        lambda: chained(partial(_rows, source, split) for split, source in sources.items()),
        published=COUNTS["didemo"],
        paragraph=True,
        absent=absent,
    )


def _rows(source: Source, split: str) -> Clips:
    clips: dict[str, tuple[str, list[Caption]]] = {}
    for where, entry in read_json_list(source):
        stem = video_stem(text_of(entry, "video", where))
        clips.setdefault(stem, (where, []))[1].append(Caption(text_of(entry, "description", where)))
    for stem, (where, captions) in clips.items():
        yield where, ClipRow(stem, stem, tuple(captions), split, end_seconds=_ANNOTATED_SECONDS)
