"""The rows of a data set whose videos are there, kept for the shards, and the plan that a folder was begun with."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from stoa.data.counts import LengthCounts
from stoa.data.origin import PLAN_FILE, ROWS_FILE
from stoa.data.text import token_ids, used_token_ids
from stoa.files import fsync, remove_temporaries, temporary_of, write_whole, writing
from stoa.manifest import ClipRow, row_from_json, row_to_json
from stoa.prepare.adapters import Annotations, Found, VideoFolder, resolve
from stoa.prepare.config import DetectionsConfig, PrepareConfig, StoreConfig
from stoa.prepare.detections.made import detections_by_clip
from stoa.text_files import read_own


def keep_rows(config: PrepareConfig, annotations: Annotations, root: Path, found: Found, out: Path) -> int:
    """Write the rows whose videos are there, the plan, and a ledger of those left out.

    Args:
        root: folder that ``detections`` of a manifest's rows are relative to.
        found: counts what is read.
        out: folder to write.

    Returns:
        How many are left out.

    Raises:
        ValueError: an annotation is malformed, no row is left, or ``out`` was begun with another plan.
    """
    rows, ledger = out / ROWS_FILE, out / "ledger.jsonl"
    for path in (rows, ledger):
        remove_temporaries(out, path.name)
    new_rows, new_ledger = temporary_of(rows), temporary_of(ledger)
    detected = config.detections.manifest
    boxes = None if detected is None else detections_by_clip(detected)
    digest, count, left_out = hashlib.sha256(), 0, 0
    try:
        with open(new_rows, "wb") as kept, open(new_ledger, "w", encoding="utf-8") as skipped:

            def skip(clip: str, reason: str) -> None:
                nonlocal left_out
                left_out += 1
                with writing(ledger):
                    skipped.write(json.dumps({"event": "skipped", "clip": clip, "reason": reason}) + "\n")

            for row in resolve(annotations, VideoFolder(config.videos), skip, on_skip=skip, found=found):
                placed = _placed(row, root) if boxes is None else replace(row, detections=boxes.get(row.id))
                line = json.dumps(row_to_json(placed)).encode() + b"\n"
                digest.update(line)
                with writing(rows):
                    kept.write(line)
                count += 1
            with writing(rows):
                kept.flush()
            with writing(ledger):
                skipped.flush()
        plan = {**settings(config), "clips": count, "rows_sha256": digest.hexdigest()}
        if not count:
            raise ValueError(
                f"{annotations.dataset}: none of the clips can be used ({'; '.join(found.notes())}); videos are looked "
                f"for in {config.videos}"
            )
        _require_same_plan(plan, out)
        for new, old in ((new_rows, rows), (new_ledger, ledger)):
            with writing(old):
                fsync(new)
                os.replace(new, old)
    except BaseException:
        new_rows.unlink(missing_ok=True)
        new_ledger.unlink(missing_ok=True)
        raise
    made_of = found.origin().to_json()
    write_whole(out / PLAN_FILE, json.dumps({**plan, "made_of": made_of}, indent=2) + "\n")
    return left_out


def is_begun(out: Path) -> bool:
    """Whether a folder holds a plan."""
    return (out / PLAN_FILE).exists()


def forget_plan(out: Path) -> None:
    """Where nothing was made yet, another call may have other options."""
    (out / PLAN_FILE).unlink()


def settings(config: PrepareConfig) -> dict[str, Any]:
    """What decides about the content; stores may be added later."""
    values = dataclasses.asdict(config)
    return {key: values[key] for key in ("videos", "spacy", "store", "detections")}


class Tokens(NamedTuple):
    """Of the captions of a split: the ids that occur, sorted, and how many captions have how many tokens."""

    ids: list[int]
    lengths: LengthCounts


def tokens_by_split(rows: Path) -> dict[str, Tokens]:
    """Of the captions of all rows, those of clips that will turn out unreadable included."""
    found, lengths = dict[str, set[int]](), dict[str, LengthCounts]()
    with open(rows, "rb") as file:
        for line in file:
            row = row_from_json(json.loads(line), str(rows))
            ids, of_split = found.setdefault(row.split, set()), lengths.setdefault(row.split, LengthCounts())
            for caption in row.captions:
                tokens = token_ids(caption)
                ids.update(tokens)
                of_split.add(len(tokens) + 2)
    ends = used_token_ids(())
    return {split: Tokens(sorted(ids.union(ends)), lengths[split]) for split, ids in found.items()}


def caption_counts(rows: Path) -> dict[str, int]:
    """Of each clip by its id."""
    with open(rows, "rb") as file:
        found = (row_from_json(json.loads(line), str(rows)) for line in file)
        return {row.id: len(row.captions) for row in found}


def _require_same_plan(plan: dict[str, Any], out: Path) -> None:
    if not (out / PLAN_FILE).is_file():
        return
    old = read_own(out / PLAN_FILE, (), "delete this folder, or pass another --out")
    for key, default in (("store", StoreConfig()), ("detections", DetectionsConfig())):  # options that it does not know
        before = old.get(key, {})
        if isinstance(before, dict):
            old[key] = {**json.loads(json.dumps(dataclasses.asdict(default))), **before}
    changed = [key for key in plan if old.get(key) != json.loads(json.dumps(plan[key]))]
    if not changed:
        return
    key = changed[0]
    if key == "rows_sha256":
        what = "other clips, captions or boxes than this call has"
    else:
        what = f"{key} {old.get(key)}, this call has {plan[key]}"
    raise ValueError(
        f"{out} was begun with {what}; call with the same inputs and options, pass another --out, or delete this folder"
    )


def _placed(row: ClipRow, root: Path) -> ClipRow:
    return row if row.detections is None else replace(row, detections=str((root / row.detections).resolve()))
