"""From published annotations and a folder of videos to stores that training reads.

``out`` holds rows.jsonl (the clips whose videos are there), plan.json (of what they were made, and how), a folder a
store, questions.jsonl where there are some, labels.json of the detections, ledger.jsonl and summary.html.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from stoa.data.ledger import Ledger
from stoa.data.origin import QUESTIONS_FILE, ROWS_FILE
from stoa.data.shards import CAPTIONS_FILE, IDS_FILE, INDEX_DTYPE, INDEX_FILE, STORE_FILE, STORE_VERSION
from stoa.files import remove_temporaries, replacing, write_whole
from stoa.locks import only_writer
from stoa.prepare.adapters import Annotations, Found
from stoa.prepare.config import PrepareConfig, StoreKind
from stoa.prepare.counts import box_lines, left_out_by_split, length_lines, require_sound_boxes
from stoa.prepare.detections import DetectionSource, read_class_names, write_class_names
from stoa.prepare.engines import Engine, run
from stoa.prepare.rows import Tokens, caption_counts, forget_plan, is_begun, keep_rows, settings, tokens_by_split
from stoa.prepare.shard import ShardCounts, ShardTask
from stoa.prepare.summary import write_summary
from stoa.prepare.tagging import Tagger
from stoa.prepare.tallies import Tallies
from stoa.progress import Progress
from stoa.questions import write_questions
from stoa.text_files import read_own

Say = Callable[[str], None]
_OF_A_SHARD = ("offsets", "clips", "splits", "ids", "name", "bytes", "sha256", "tallies", "failures")


def prepare(
    config: PrepareConfig, annotations: Annotations, root: Path, *, engine: Engine, workers: int, say: Say
) -> None:
    """Prepare a data set, or go on where an earlier call stopped.

    Args:
        config: what, and how.
        annotations: its clips, captions and questions.
        root: folder that ``detections`` of a manifest's rows are relative to.
        engine, workers: who makes the shards.
        say: takes a line on what is found, and on what is written.

    Raises:
        ValueError: an input is malformed, no video is found, or ``out`` was prepared of something else.
        OSError: the disk is full or does not answer. What is done stays; the same call goes on.
    """
    if config.spacy is not None:
        tagger = Tagger.load(config.spacy)  # a missing one is told before an hour's work
        if tagger.note is not None:
            say(f"spacy {config.spacy}: {tagger.note}")
    config = config.absolute()
    with only_writer(Path(config.out), "--out"):
        _prepare(config, annotations, root, Path(config.out), engine, workers, say)


def _prepare(
    config: PrepareConfig, annotations: Annotations, root: Path, out: Path, engine: Engine, workers: int, say: Say
) -> None:
    found = Found(annotations)
    begun = is_begun(out)
    left_out = keep_rows(config, annotations, root, found, out)
    if annotations.question_rows is not None:
        with replacing(out / QUESTIONS_FILE) as temporary:
            write_questions(temporary, annotations.questions(found))
    for line in found.lines():
        say(line)
    if not config.stores:
        say(f"no stores asked for; the clips that are there are listed in {out / ROWS_FILE}")
        return
    try:
        source, class_names = _open_boxes(config, root, Ledger(out / "ledger.jsonl"), say)
        require_sound_boxes(config, source, out / ROWS_FILE)
    except ValueError:
        if not begun:
            forget_plan(out)
        raise
    if class_names:
        write_class_names(out / "labels.json", class_names)
    tokens = tokens_by_split(out / ROWS_FILE)
    for line in length_lines(tokens):
        say(line)
    tallies: dict[StoreKind, Tallies] = {}
    for kind in config.stores:
        paths = _make_shards(config, kind, out, engine, workers, say)
        tallies[kind], boxes = _finish(config, kind, class_names, tokens, left_out, found, paths, out)
        for line in box_lines(tallies[kind], boxes):
            say(f"{kind}: {line}")
    write_summary(out, config, found.lines(), tallies)
    say(f"written to {out}; look at {out / 'summary.html'}")
    for kind in config.stores:
        say(f"train on it with --data.manifest {out / kind}")


def _open_boxes(
    config: PrepareConfig, root: Path, ledger: Ledger, say: Say
) -> tuple[DetectionSource | None, list[str]]:
    """Published detections, if there are some, and the names of their classes. What is left out of these for all clips
    is told here, that of each clip in its shard."""
    dropped = list[str]()

    def drop(video: str, reason: str) -> None:
        ledger.record("boxes dropped", video, reason)
        dropped.append(reason)

    source = config.detections.open(on_drop=drop)
    if dropped:
        say(f"{len(dropped):,} entries of {config.detections.path} are left out, the first: {dropped[0]}")
    if source is not None:
        return source, source.class_names
    own = (config.detections.manifest or root / "manifest.jsonl").with_name("labels.json")
    return None, read_class_names(own) if own.is_file() else []


def _make_shards(
    config: PrepareConfig, kind: StoreKind, out: Path, engine: Engine, workers: int, say: Say
) -> list[Path]:
    folder = out / kind
    folder.mkdir(exist_ok=True)
    remove_temporaries(folder)
    tasks = list(_tasks(config, kind, out / ROWS_FILE, folder))
    open_tasks = [task for task in tasks if not Path(task.path).with_suffix(".json").is_file()]
    if len(open_tasks) < len(tasks):
        say(f"{kind}: {len(tasks) - len(open_tasks):,} of {len(tasks):,} shards are there already")
    if open_tasks:
        (folder / STORE_FILE).unlink(missing_ok=True)
    rows, to_do = (sum(task.count for task in some) for some in (tasks, open_tasks))
    failed = 0
    with Progress(rows, f"prepare {kind}", "clips") as progress:
        progress.skip(rows - to_do)
        for shard in _told(run(open_tasks, engine, workers), folder):
            failed += shard.failed
            progress.update(shard.clips + shard.failed, note=f"{failed:,} failed" if failed else "")
    return [Path(task.path) for task in tasks]


def _told(shards: Iterator[ShardCounts], folder: Path) -> Iterator[ShardCounts]:
    try:
        yield from shards
    except OSError as error:
        raise OSError(
            f"{error.strerror or error}{f' ({error.filename})' if error.filename else ''} while writing to {folder}; "
            "what is done stays: mend that, and call again"
        ) from error


def _tasks(config: PrepareConfig, kind: StoreKind, rows: Path, folder: Path) -> Iterator[ShardTask]:
    size = config.store.clips_per_shard
    begin = end = count = 0

    def task() -> ShardTask:
        number = (count - 1) // size
        first, path = number * size, str(folder / f"{number:06d}.tar")
        return ShardTask(config, kind, str(rows), begin, end, first, count - first, path)

    with open(rows, "rb") as file:
        for line in file:
            count += 1
            end += len(line)
            if count % size == 0:
                yield task()
                begin = end
    if count % size:
        yield task()


def _finish(
    config: PrepareConfig,
    kind: StoreKind,
    class_names: list[str],
    tokens: dict[str, Tokens],
    left_out: int,
    found: Found,
    paths: list[Path],
    out: Path,
) -> tuple[Tallies, Counter[str]]:
    """Join what the shards say into the store's index, and into the ledger; gives counts of clips, and of boxes by what
    became of them."""
    tallies, parts, shards, splits = Tallies(), [], [], list[str]()
    ids, boxes = list[str](), Counter[str]()
    ledger = Ledger(out / "ledger.jsonl")
    for number, path in enumerate(paths):
        shard = read_own(path.with_suffix(".json"), _OF_A_SHARD, f"delete it and {path.name}, and call again")
        offsets = np.array(shard["offsets"], dtype=np.int64)
        part = np.zeros(shard["clips"], dtype=INDEX_DTYPE)
        part["shard"], part["offset"], part["size"] = number, offsets[:-1], np.diff(offsets)
        for name in dict.fromkeys(shard["splits"]):
            splits += [name] * (name not in splits)
        part["split"] = [splits.index(name) for name in shard["splits"]]
        parts.append(part)
        ids += shard["ids"]
        shards.append({key: shard[key] for key in ("name", "clips", "bytes", "sha256")})
        tallies.add(shard["tallies"])
        boxes += Counter(shard.get("boxes", {}))
        for failure in shard["failures"]:
            ledger.record(**{"store": kind, **failure})
            left_out += failure["event"] == "failed"
    index = np.concatenate(parts)
    if not len(index):
        raise ValueError(f"none of the clips could be prepared; {out / 'ledger.jsonl'} says why")
    if config.detections.path is not None and not tallies.clips_with_boxes:
        raise ValueError(
            f"none of the {len(index):,} clips has detections in {config.detections.path}; {out / 'ledger.jsonl'} says "
            "what was looked for. Mend the file or --detections.pattern, and pass another --out"
        )
    folder = out / kind
    _save(folder / INDEX_FILE, index)
    counts = caption_counts(out / ROWS_FILE)
    _save(folder / CAPTIONS_FILE, np.array([counts[clip] for clip in ids], dtype=np.int32))
    write_whole(folder / IDS_FILE, "".join(json.dumps(clip) + "\n" for clip in ids))
    store = {
        "version": STORE_VERSION,
        "kind": kind,
        "clips": len(index),
        "left_out": left_out,
        "made_of": found.origin().to_json(),
        "captions": tallies.captions,
        "splits": splits,
        "settings": settings(config),
        "labels": class_names,
        "token_ids": {split: of.ids for split, of in tokens.items()},
        "clips_with_boxes": tallies.clips_with_boxes,
        "foreign_script_share": tallies.foreign_captions / max(1, tallies.captions),
        "counts": {
            "left_out": left_out_by_split(found, Counter(splits[number] for number in index["split"])),
            "token_lengths": {split: of.lengths.counts for split, of in tokens.items()},
            "boxes": tallies.boxes,
            "unusable_boxes": tallies.unusable_boxes,
        },
        "shards": shards,
    }
    write_whole(folder / STORE_FILE, json.dumps(store) + "\n")
    return tallies, boxes


def _save(path: Path, array: np.ndarray) -> None:
    with replacing(path) as temporary, open(temporary, "wb") as file:
        np.save(file, array)
