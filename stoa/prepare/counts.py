"""What prepared data were made of and what was left out, and whether boxes can be what they are taken for."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import numpy as np

from stoa.data import counts
from stoa.data.decoding.base import DecodeError
from stoa.data.decoding.cpu import decode_guarded
from stoa.data.decoding.guard import Guard
from stoa.manifest import row_from_json
from stoa.prepare.adapters import Found
from stoa.prepare.adapters.videos import video_stem
from stoa.prepare.config import PrepareConfig
from stoa.prepare.detections import DetectionSource
from stoa.prepare.detections.base import Drops, FrameBoxes
from stoa.prepare.rows import Tokens
from stoa.prepare.tallies import Tallies

_ROWS, _SIZES = 10_000, 32  # clips whose boxes are looked at, and those of them with the size of their frames


def left_out_by_split(found: Found, prepared: Counter[str]) -> dict[str, dict[str, int]]:
    """Rows of each split that a store does not have, by reason."""
    return {
        split: {
            "without a caption": rows.without_caption,
            "with a repeated id": rows.repeated,
            "without their video": rows.missing,
            "that cannot be decoded": rows.videos - prepared[split],
        }
        for split, rows in found.splits.items()
    }


def length_lines(tokens: dict[str, Tokens]) -> Iterator[str]:
    """How many captions a model would cut that reads as many tokens as the recipes say, or as CLIP can."""
    whole = counts.LengthCounts(np.sum([of.lengths.counts for of in tokens.values()], axis=0).tolist())
    for most in (32, 77):
        line = whole.cut_line(most)
        if line is not None:
            yield line


def box_lines(tallies: Tallies, boxes: Counter[str]) -> Iterator[str]:
    """How many clips have boxes, and what became of these, as :class:`DetectionSource` counts it."""
    yield f"{tallies.clips_with_boxes:,} of {tallies.clips:,} clips have detections"
    read, kept = boxes.pop("read", 0), boxes.pop("kept", 0)
    if read:
        left = f"; left out: {counts.by_reason(boxes)}" if kept < read else ""
        yield f"{counts.share(kept, read, 'boxes')} are kept{left}"
    yield from counts.unusable_line(tallies.unusable_boxes, tallies.boxes)


def require_sound_boxes(config: PrepareConfig, source: DetectionSource | None, rows_file: Path) -> None:
    """Refuse detections that do not fit the frames of their videos, before an hour's work: of some clips.

    Args:
        config: of the whole.
        source: published detections; None where rows name their own.
        rows_file: of all clips.

    Raises:
        ValueError: most of their boxes do not; the message names the option that would do.
    """
    with open(rows_file, "rb") as file:
        rows = [row_from_json(json.loads(line), str(rows_file)) for line in islice(file, _ROWS)]
    if source is None:
        list(counts.box_lines(rows, rows_file.parent, str(rows_file), "checking"))
        return
    guard, seen = Guard(config.timeout_seconds), list[tuple[str, list[FrameBoxes], Drops]]()
    for row in counts.spread(rows, _SIZES):
        try:
            decoded, _ = decode_guarded(guard, str(Path(config.videos) / row.video), 1, None, None, "auto")
        except DecodeError:
            continue
        height, width = decoded.frames_THWC.shape[1:3]
        seen.append(source.look(video_stem(Path(row.video).name), size_wh=(width, height)))
    source.require_conventions(seen)
