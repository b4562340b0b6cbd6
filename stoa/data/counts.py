"""What of a data set is used, what is not, and why: counts with their shares, said before the work begins."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import Any, Literal, TypeVar

import numpy as np

from stoa.box_conventions import Conventions, Evidence
from stoa.data.placement import unusable_boxes
from stoa.data.text import token_ids
from stoa.detections import Detections
from stoa.manifest import Caption, ClipRow, RowCounts
from stoa.text_files import on_disk

LOOKED_AT = 20_000
"""Files that are looked for, and captions whose tokens are counted, spread evenly over those of larger sets."""
BOX_FILES_LOOKED_AT = 200
_NAMED = 3
_LONGEST = 256  # the last bin of a histogram of lengths is open
Use = Literal["training", "validating", "evaluating", "checking"]
_MAY_MISS: dict[Use, float] = {"training": 0.5, "validating": 0.5}
_T = TypeVar("_T")


def share(count: int, total: int, what: str) -> str:
    """``34 of 5,000 captions (0.7%)``."""
    part = count / max(total, 1)
    return f"{count:,} of {total:,} {what} ({'less than 0.1%' if 0 < part < 0.001 else f'{part:.1%}'})"


@dataclass
class LengthCounts:
    """How many captions have how many tokens, start and end included."""

    counts: list[int] = field(default_factory=lambda: [0] * (_LONGEST + 1))

    def add(self, length: int) -> None:
        self.counts[min(length, _LONGEST)] += 1

    def cut_line(self, max_tokens: int) -> str | None:
        """How many are longer than a model reads; None where none is."""
        cut, longest = (
            sum(self.counts[max_tokens + 1 :]),
            max((n for n, count in enumerate(self.counts) if count), default=0),
        )
        if not cut:
            return None
        at_least = "or more " if longest == _LONGEST else ""
        return (
            f"{share(cut, sum(self.counts), 'captions')} are longer than the {max_tokens} tokens that the model reads, "
            f"and are cut; the longest has {longest} {at_least}(model.max_tokens, --max_tokens)"
        )


def manifest_lines(
    rows: Sequence[ClipRow],
    root: Path,
    counts: RowCounts,
    *,
    name: str,
    split: str | None,
    use: Use,
    max_tokens: int,
    with_boxes: bool,
    texts: Iterable[tuple[str, Sequence[Caption]]] | None = None,
) -> Iterator[str]:
    """What of a manifest is used.

    Args:
        rows: those used.
        root: folder that their paths are relative to.
        counts: of all rows of the manifest.
        name: of the manifest.
        split: that is used; None is all.
        use: that is made of them.
        max_tokens: text that the model reads, start and end included.
        with_boxes: whether the model sees some.
        texts: id and texts of clips, where captions are not what the model reads.

    Raises:
        ValueError: as :func:`file_lines` and :func:`box_lines`.
    """
    yield from row_lines(name, counts, split, use)
    yield from file_lines(rows, root, name, use)
    some = spread(rows, LOOKED_AT)
    if texts is None:
        texts = ((row.id, row.captions) for row in some)
    yield from caption_lines(texts, max_tokens, looked_at(len(some), len(rows)))
    if with_boxes:
        yield from box_lines(rows, root, name, use)


def row_lines(name: str, counts: RowCounts, split: str | None, use: Use) -> Iterator[str]:
    """The rows of a manifest by split, which of them are used, and how many of these have no caption."""
    of_split = counts.rows.total() if split is None else counts.rows[split]
    yield f"{name}: {counts.rows.total():,} rows: {_by_split(counts.rows)}; {use} on {split or 'all'}"
    silent = counts.without_caption.total() if split is None else counts.without_caption[split]
    if silent:
        first = next(id for of, id in counts.first_without_caption.items() if split in (None, of))
        yield f"{share(silent, of_split, 'rows')} have no caption and are left out, the first is {first!r}"


def caption_lines(
    clips: Iterable[tuple[str, Sequence[Caption]]], max_tokens: int, looked_at: str = ""
) -> Iterator[str]:
    """How many captions are cut, and how many clips' captions are then those of others.

    Args:
        clips: id and captions of each.
        max_tokens: that the model reads, start and end included.
        looked_at: how many there are, where these are some of them.
    """
    lengths = LengthCounts()
    read_as: dict[tuple[int, ...], dict[tuple[int, ...], set[str]]] = {}
    for clip, captions in clips:
        for caption in captions:
            whole = token_ids(caption)
            lengths.add(len(whole) + 2)
            if len(whole) >= max_tokens - 2:
                read_as.setdefault(whole[: max_tokens - 2], {}).setdefault(whole, set()).add(clip)
    line = lengths.cut_line(max_tokens)
    if line is None:
        return
    yield line + looked_at
    alike = [set(chain.from_iterable(wholes.values())) for wholes in read_as.values() if len(wholes) > 1]
    alike = [clips_of for clips_of in alike if len(clips_of) > 1]
    if alike:
        first, second = sorted(alike[0])[:2]
        yield (
            f"{len(set().union(*alike)):,} clips have captions that differ from those of others only where they are "
            f"cut, such as {first!r} and {second!r}"
        )


def file_lines(rows: Sequence[ClipRow], root: Path, name: str, use: Use) -> Iterator[str]:
    """How many of the files that rows name are missing.

    Args:
        rows: of a manifest.
        root: folder that their paths are relative to.
        name: of the manifest.
        use: of them.

    Raises:
        ValueError: too many are missing: of those to learn from most, of others all. A check refuses none.
    """
    some = spread(rows, LOOKED_AT)
    for what, paths in (
        ("video", dict.fromkeys(row.video for row in some)),
        ("detections", dict.fromkeys(row.detections for row in some if row.detections is not None)),
    ):
        missing = [path for path in paths if not os.path.isfile(on_disk(root / path))]
        if not missing:
            continue
        of = share(len(missing), len(paths), f"{what} files") + looked_at(len(some), len(rows))
        too_many = len(missing) == len(paths) or len(missing) > _MAY_MISS.get(use, 1.0) * len(paths)
        if too_many and use != "checking":
            raise ValueError(
                f"{name}: {of} do not exist, the first is {root / missing[0]}; the paths in a manifest are relative to "
                f"its folder, here {root.resolve()}"
            )
        yield f"{of} do not exist, the first: {', '.join(missing[:_NAMED])}"


def box_lines(rows: Sequence[ClipRow], root: Path, name: str, use: Use) -> Iterator[str]:
    """How many boxes a model can see nothing of, by reason, in some of the files that rows name.

    Raises:
        ValueError: most of the boxes are not in the form that :class:`Detections` promises, or none of the files can be
            read, which only a check does not refuse.
    """
    named = [row for row in rows if row.detections is not None]
    some, evidence, lost = spread(named, BOX_FILES_LOOKED_AT), Evidence(Conventions()), Counter[str]()
    boxes, unreadable = 0, list[str]()
    for row in some:
        try:
            found = Detections.load(on_disk(root / str(row.detections)))
        except ValueError as error:
            unreadable.append(str(error))
            continue
        evidence.add(str(row.detections), found.boxes, found.scores, found.size_wh)
        boxes += len(found.boxes)
        lost += unusable_boxes(found.boxes, *(int(side) for side in found.size_wh[::-1]))
    doubt = evidence.doubt()
    if doubt is not None:
        raise ValueError(
            f"{name}, 'detections': {doubt.finding}; an .npz file holds x1, y1, x2, y2 in pixels of size_wh, and "
            "scores up to 1: convert them"
        )
    if unreadable:
        if len(unreadable) == len(some) and use != "checking":
            raise ValueError(f"{name}: none of {len(some)} files of detections can be read, the first: {unreadable[0]}")
        yield f"{share(len(unreadable), len(some), 'files of detections')} cannot be read, the first: {unreadable[0]}"
    yield from unusable_line(lost, boxes, looked_at(len(some), len(named)))


def unusable_line(lost: Mapping[str, int], boxes: int, looked_at: str = "") -> Iterator[str]:
    total = sum(lost.values())
    if total:
        yield f"{share(total, boxes, 'boxes')} are of no use to a model: {by_reason(lost)}{looked_at}"


def store_lines(
    counts: Mapping[str, Any],
    sizes: Mapping[str, int],
    *,
    name: str,
    split: str | None,
    use: Use,
    max_tokens: int,
    with_boxes: bool,
) -> Iterator[str]:
    """What is known of a store from when it was made.

    Args:
        counts: as ``store.json`` has them; a store that was made without has none.
        sizes: clips of each split.
        name, split, use, max_tokens, with_boxes: as in :func:`manifest_lines`.
    """
    yield f"{name}: {sum(sizes.values()):,} clips: {_by_split(sizes)}; {use} on {split or 'all'}"
    if not counts:
        yield f"{name} was made without counts of what it leaves out: unknown"
        return
    of_split = [of for of in counts["left_out"] if split in (None, of)]
    left_out = sum((Counter(counts["left_out"][of]) for of in of_split), Counter[str]())
    rows = left_out.total() + sum(sizes.get(of, 0) for of in of_split)
    if left_out.total():
        yield f"{share(left_out.total(), rows, 'rows')} were left out when it was made: {by_reason(left_out)}"
    lengths = [counts["token_lengths"][of] for of in counts["token_lengths"] if split in (None, of)]
    line = LengthCounts(np.sum(lengths, axis=0).tolist()).cut_line(max_tokens) if lengths else None
    if line is not None:
        yield line
    if with_boxes:
        yield from unusable_line(counts["unusable_boxes"], counts["boxes"])


def by_reason(counts: Mapping[str, int]) -> str:
    """``1,000 outside the frame, 12 ...``, the most frequent first."""
    return ", ".join(f"{count:,} {reason}" for reason, count in Counter(counts).most_common() if count)


def spread(items: Sequence[_T], most: int) -> Sequence[_T]:
    """So many of the items at most, evenly spread."""
    return items if len(items) <= most else [items[i * len(items) // most] for i in range(most)]


def looked_at(some: int, all: int) -> str:
    """What a line ends with that is on some of all."""
    return "" if some == all else f" ({some:,} of {all:,} rows looked at)"


def _by_split(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{count:,} {split}" for split, count in counts.items())
