"""Decodes a whole data set and tells which of its clips are bad, and why, before a training run finds out."""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

from stoa.data.decoding.guard import Guard
from stoa.data.ledger import Ledger
from stoa.prepare.guarded import in_guards
from stoa.prepare.sources import File, Source, open_source
from stoa.prepare.verdicts import CheckLedger, Verdict
from stoa.progress import Progress

Say = Callable[[str], None]


@dataclass(frozen=True, kw_only=True)
class CheckConfig:
    """What to check, and how.

    Attributes:
        ledger: JSONL file that gets a line for every file; files that it has in their present state are not checked
            again. Default: check.jsonl beside the data, or where that cannot be written in the current folder.
        workers: files checked at once, each in a process of its own.
        timeout_seconds: a video, or a clip of a shard, that takes longer counts as hung.
        split: the clips of this split only.
        max_tokens: text that a model reads, start and end included: how many captions are longer is said.
    """

    ledger: str | None = None
    workers: int = 1
    timeout_seconds: float = 300.0
    split: str | None = None
    max_tokens: int = 32

    def __post_init__(self) -> None:
        if self.workers < 1:
            raise ValueError(f"workers is {self.workers}; pass 1 or more")
        if not self.timeout_seconds > 0:
            raise ValueError(f"timeout_seconds is {self.timeout_seconds}; expected a positive number")
        if self.max_tokens < 3:
            raise ValueError(f"max_tokens is {self.max_tokens}; expected at least 3 (start, a word, end)")


def check(data: str, config: CheckConfig, say: Say) -> bool:
    """Check a data set, or go on where an earlier call stopped.

    Args:
        data: a manifest, a folder of videos, or a store, here or at a URL.
        config: how.
        say: takes a line of the report.

    Returns:
        whether all of it is sound.

    Raises:
        ValueError: an input is malformed.
        OSError: a disk is full or does not answer. The same call goes on.
    """
    path = Path(config.ledger) if config.ledger is not None else _ledger_beside(data)
    if path.resolve() == Path(data).resolve():
        raise ValueError(f"--ledger {path} is the data itself; pass another file")
    source = open_source(data, config.split)
    boxes_fit = _say_counts(data, config, say)
    report = _Report()
    try:
        with CheckLedger(path) as ledger, Progress(source.total, "check", "files") as progress:
            new = _new_files(source, ledger, report, progress)
            for verdicts in in_guards(new, _examine, workers=config.workers, timeout_seconds=config.timeout_seconds):
                ledger.write(verdicts)
                report.add(verdicts)
                progress.update(note=f"{report.bad_files:,} bad")
    except KeyboardInterrupt:
        say(f"interrupted; {path} has what was checked, the same call goes on")
        raise
    for line in report.lines():
        say(line)
    noted = f", {report.noted_files:,} with notes" if report.noted_files else ""
    say(f"{source.total:,} {source.counted}, {report.bad_files:,} bad{noted}; written to {path}")
    return boxes_fit and not report.counts


def _say_counts(data: str, config: CheckConfig, say: Say) -> bool:
    """What training would say of a manifest or store before it begins; whether its boxes are what they should be."""
    if Path(data).is_dir() and not (Path(data) / "store.json").exists():
        return True
    from stoa.data.loader import open_clips, opening_lines  # brings torch

    clips = open_clips(data, config.split, Ledger(None))
    try:
        for line in opening_lines(clips, data, config.split, "checking", max_tokens=config.max_tokens, max_boxes=1):
            say(line)
    except ValueError as error:
        say(str(error))
        return False
    return True


def _ledger_beside(data: str) -> Path:
    if "://" in data:
        return Path("check.jsonl")
    folder = Path(data) if Path(data).is_dir() else Path(data).parent
    return folder / "check.jsonl" if os.access(folder, os.W_OK) else Path("check.jsonl")


def _new_files(
    source: Source, ledger: CheckLedger, report: _Report, progress: Progress
) -> Iterator[tuple[File, Verdict]]:
    """Each file that has no verdict in its present state, with that state; of the others what is on record is told.
    Where the file system does not say when a file was changed, as over HTTP, its state is not known."""
    for file in source.files():
        size, mtime = file.state()
        state = Verdict(path=file.name, part=file.part, size=size, mtime=mtime, split=file.split)
        if ledger.is_new(state) or (size is not None and mtime is None):
            yield file, state
        else:
            report.add(ledger.recall(state))
            progress.skip(1)


def _examine(guard: Guard, task: tuple[File, Verdict]) -> list[Verdict]:
    """The verdicts on a file. That on the whole comes last: without it the file is not done."""
    file, state = task
    begun = time.monotonic()
    whole, *clips = [
        replace(found, size=state.size, mtime=state.mtime, split=state.split) for found in file.examine(guard)
    ]
    return [*clips, replace(whole, seconds=round(time.monotonic() - begun, 3))]


@dataclass
class _Report:
    """Bad verdicts by class, with the first of each, and notes on sound clips."""

    bad_files: int = 0
    noted_files: int = 0
    first_note: str = ""
    counts: Counter[str] = field(default_factory=Counter)
    examples: dict[str, str] = field(default_factory=dict)

    def add(self, verdicts: list[Verdict]) -> None:
        """Those on one file."""
        self.bad_files += any(verdict.error is not None for verdict in verdicts)
        self.noted_files += any(verdict.error is None and verdict.notes for verdict in verdicts)
        for verdict in verdicts:
            where = verdict.path if verdict.clip is None else f"{verdict.path}, clip {verdict.clip}"
            if verdict.error is not None:
                self.counts[verdict.error] += 1
                self.examples.setdefault(verdict.error, f"{where}: {verdict.reason}")
            elif verdict.notes:
                self.first_note = self.first_note or f"{where}: {verdict.notes[0]}"

    def lines(self) -> list[str]:
        notes = [f"notes on sound clips, the first: {self.first_note}"] * bool(self.first_note)
        if not self.counts:
            return notes
        width = max(len("error"), *map(len, self.counts))
        rows = [f"{name:{width}}  {count:>9,}  {self.examples[name]}" for name, count in self.counts.most_common()]
        return [f"{'error':{width}}  {'count':>9}  first example", *rows, *notes]
