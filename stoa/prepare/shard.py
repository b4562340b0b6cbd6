"""The work on one shard: the unit that engines spread over processes and machines."""

from __future__ import annotations

import errno
import io
import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

from stoa.data.decoding.base import DecodeError
from stoa.data.decoding.guard import Guard
from stoa.detections import Detections
from stoa.manifest import Caption, ClipRow, row_from_json, row_to_json
from stoa.prepare.adapters.videos import video_stem
from stoa.prepare.config import DetectionsConfig, PrepareConfig, StoreKind
from stoa.prepare.detections import DetectionSource
from stoa.prepare.tagging import Tagger
from stoa.prepare.tallies import Tallies
from stoa.prepare.transcode import Transcoded, to_frames, to_video
from stoa.prepare.writer import ShardWriter

Failure = dict[str, Any]


@dataclass(frozen=True)
class ShardTask:
    """Rows of the spooled manifest that become one shard.

    Attributes:
        config: of the whole.
        kind: of the store.
        rows: the spooled rows, JSONL.
        begin, end: bytes of that file.
        first, count: number of the first row, and of rows.
        path: of the tar file.
    """

    config: PrepareConfig
    kind: StoreKind
    rows: str
    begin: int
    end: int
    first: int
    count: int
    path: str


class ShardCounts(NamedTuple):
    """How many clips a shard holds, and how many could not be prepared."""

    clips: int
    failed: int


def write_shard(task: ShardTask) -> ShardCounts:
    """Prepare the clips of a task. The JSON beside the shard says what :class:`stoa.prepare.writer.ShardWriter` says,
    ``ids`` and ``splits`` (of each clip), ``failures``, ``tallies``, and ``boxes``, what became of published ones.

    Raises:
        OSError: the disk is full or does not answer, or the videos have gone.
    """
    failures: list[Failure] = []
    kept: list[tuple[ClipRow, float, int, Detections | None]] = []
    source, dropped = _detections(task.config.detections)
    counted = Counter[str]() if source is None else source.counts
    counted.clear()
    with ShardWriter(Path(task.path)) as shard:
        for number, row in enumerate(_tagged(_rows(task), task.config.spacy), start=task.first):
            path = str(Path(task.config.videos) / row.video)
            try:
                clip = _transcode(task, path, row)
                dropped.clear()
                found = _boxes(source, row, clip)
            except (DecodeError, ValueError) as error:
                kind = error.kind if isinstance(error, DecodeError) else "boxes"
                if kind == "missing" and not Path(path).parent.is_dir():  # which it was when the rows were written
                    raise FileNotFoundError(errno.ENOENT, "the folder of a video is gone", path) from None
                failures.append({"event": "failed", "clip": row.id, "reason": str(error), "path": path, "kind": kind})
                continue
            failures.extend({"event": "note", "clip": row.id, "reason": note, "path": path} for note in clip.notes)
            failures.extend({"event": "boxes dropped", "clip": row.id, "reason": reason} for reason in dropped)
            if task.config.detections.path is not None and found is None:
                sought = row.id if source is None else video_stem(Path(row.video).name)
                reason = f"{task.config.detections.path} has nothing of use on {sought!r}"
                failures.append({"event": "no detections", "clip": row.id, "reason": reason})
            shard.add(f"{number:08d}", _files(task, row, clip, found))
            kept.append((row, clip.duration_seconds, len(clip.times_seconds), found))
    of_clips = {"ids": [row.id for row, *_ in kept], "splits": [row.split for row, *_ in kept]}
    shard.finish({**of_clips, "failures": failures, "tallies": Tallies.of(kept).to_json(), "boxes": counted})
    return ShardCounts(len(kept), sum(failure["event"] == "failed" for failure in failures))


def _rows(task: ShardTask) -> Iterator[ClipRow]:
    with open(task.rows, "rb") as file:
        file.seek(task.begin)
        number = task.first
        while file.tell() < task.end:
            number += 1
            yield row_from_json(json.loads(file.readline()), f"{task.rows}, row {number}")


def _tagged(rows: Iterator[ClipRow], pipeline: str | None) -> Iterator[ClipRow]:
    if pipeline is None:
        yield from rows
        return
    held = list(rows)
    bare = (c.text for row in held for c in row.captions if not _has_spans(c))
    tagged = _tagger(pipeline).tag(bare)
    for row in held:
        yield replace(row, captions=tuple(c if _has_spans(c) else next(tagged) for c in row.captions))


def _has_spans(caption: Caption) -> bool:
    return bool(caption.nouns or caption.verbs)


def _transcode(task: ShardTask, path: str, row: ClipRow) -> Transcoded:
    store, guard = task.config.store, _guard(task.config.timeout_seconds)
    part = path, row.start_seconds, row.end_seconds
    if task.kind == "frames":
        return guard.call(to_frames, *part, store.frames, store.side, store.jpeg_quality)
    return guard.call(to_video, *part, store.side, store.gop, store.crf)


def _boxes(source: DetectionSource | None, row: ClipRow, clip: Transcoded) -> Detections | None:
    """Detections with times from the clip's start."""
    if source is not None:
        name = Path(row.video).name
        found = None
        for stem in dict.fromkeys((video_stem(name), Path(name).stem)):  # of "a.avi.mp4": "a", else "a.avi"
            found = found or source.find(
                stem,
                size_wh=clip.source_size_wh,
                duration_seconds=clip.source_seconds,
                start_seconds=row.start_seconds,
                end_seconds=row.end_seconds,
            )
    else:
        found = Detections.load(row.detections) if row.detections is not None else None
    if found is not None and row.start_seconds:
        found = replace(found, frame_times_seconds=found.frame_times_seconds - row.start_seconds)
    return found


def _files(task: ShardTask, row: ClipRow, clip: Transcoded, found: Detections | None) -> dict[str, bytes]:
    facts: dict[str, Any] = {
        "row": row_to_json(replace(row, detections=None)),
        "duration_seconds": clip.duration_seconds,
        "times_seconds": clip.times_seconds,
        "size_wh": clip.size_wh,
    }
    if task.kind == "frames":
        facts["num_slots"] = task.config.store.frames
    files = {"json": json.dumps(facts).encode()}
    if found is not None:
        packed = io.BytesIO()
        found.save(packed)
        files["boxes.npz"] = packed.getvalue()
    return files | clip.files


@lru_cache(maxsize=1)
def _guard(timeout_seconds: float) -> Guard:
    return Guard(timeout_seconds)


@lru_cache(maxsize=1)
def _tagger(pipeline: str) -> Tagger:
    return Tagger.load(pipeline)


@lru_cache(maxsize=1)
def _detections(config: DetectionsConfig) -> tuple[DetectionSource | None, list[str]]:
    """The source, and a list in which it says what it leaves out."""
    dropped: list[str] = []
    return config.open(on_drop=lambda clip, reason: dropped.append(reason)), dropped
