"""What a prepared data set looks like, counted shard by shard and added up."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from stoa.data.placement import unusable_boxes
from stoa.data.text import foreign_script_share
from stoa.detections import Detections
from stoa.manifest import Caption, ClipRow

DURATION_EDGES = (0, 2, 5, 10, 15, 20, 30, 60, 120, 300)
BOX_EDGES = (0, 1, 2, 5, 10, 20, 50, 100)
_KEPT_WORDS = 2000  # of each shard; enough for the most frequent of all


@dataclass
class Tallies:
    """Counts over clips; ``labels`` by the number of the class, ``unusable_boxes`` by what keeps a model from seeing
    them, ``durations`` and ``boxes_per_frame`` by the edges above, the last bin being open."""

    clips: int = 0
    captions: int = 0
    foreign_captions: int = 0
    without_nouns: int = 0
    without_verbs: int = 0
    seconds: float = 0.0
    frames: int = 0
    boxes: int = 0
    clips_with_boxes: int = 0
    unusable_boxes: dict[str, int] = field(default_factory=dict)
    durations: list[int] = field(default_factory=lambda: [0] * len(DURATION_EDGES))
    boxes_per_frame: list[int] = field(default_factory=lambda: [0] * len(BOX_EDGES))
    nouns: dict[str, int] = field(default_factory=dict)
    verbs: dict[str, int] = field(default_factory=dict)
    labels: dict[str, int] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @staticmethod
    def of(clips: Iterable[tuple[ClipRow, float, int, Detections | None]]) -> Tallies:
        """Count clips: row, duration in seconds, stored frames and detections of each."""
        out, nouns, verbs, labels = Tallies(), Counter[str](), Counter[str](), Counter[str]()
        unusable = Counter[str]()
        for row, seconds, frames, found in clips:
            out.clips += 1
            out.seconds += seconds
            out.frames += frames
            out.durations[_bin(seconds, DURATION_EDGES)] += 1
            for caption in row.captions:
                out.captions += 1
                out.without_nouns += not caption.nouns
                out.without_verbs += not caption.verbs
                nouns.update(_words(caption, caption.nouns))
                verbs.update(_words(caption, caption.verbs))
            out.foreign_captions += round(foreign_script_share(row.captions) * len(row.captions))
            if found is not None and len(found.frame_times_seconds):
                out.clips_with_boxes += 1
                out.boxes += len(found.labels)
                unusable += unusable_boxes(found.boxes, *(int(side) for side in found.size_wh[::-1]))
                for count in np.bincount(found.frame_index, minlength=len(found.frame_times_seconds)):
                    out.boxes_per_frame[_bin(count, BOX_EDGES)] += 1
                for label, count in zip(*np.unique(found.labels, return_counts=True), strict=True):
                    labels[str(label)] += int(count)
        out.nouns, out.verbs, out.labels = (dict(c.most_common(_KEPT_WORDS)) for c in (nouns, verbs, labels))
        out.unusable_boxes = dict(unusable)
        return out

    def add(self, other: dict[str, Any]) -> None:
        """Add the counts of a shard, as :meth:`to_json` gave them."""
        for name, value in other.items():
            mine = getattr(self, name)
            if isinstance(value, dict):
                for word, count in value.items():
                    mine[word] = mine.get(word, 0) + count
            elif isinstance(value, list):
                setattr(self, name, [a + b for a, b in zip(mine, value, strict=True)])
            else:
                setattr(self, name, mine + value)


def _bin(value: float, edges: tuple[int, ...]) -> int:
    return int(np.searchsorted(edges, value, side="right")) - 1


def _words(caption: Caption, spans: Iterable[tuple[int, int]]) -> list[str]:
    return [caption.text[start:end].lower() for start, end in spans]
