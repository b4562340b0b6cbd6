"""The ledger: what was skipped, replaced or read another way, as JSONL that survives a kill."""

from __future__ import annotations

import errno
import json
import os
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from stoa.files import descriptor_to_append, writing
from stoa.logs import log_lines, object_in, open_log, size_of

LEDGER_FILE = "ledger.jsonl"
"""In the folder of a run."""


class Blame(NamedTuple):
    """A clip that crashed or hung its decoder, given up from this epoch on."""

    epoch: int
    reason: str


class Ledger:
    """Appends one line a record; safe from several processes at once.

    Args:
        path: of the ``.jsonl`` file; ``None`` keeps no record.
    """

    def __init__(self, path: str | os.PathLike[str] | None) -> None:
        self.path = Path(path) if path is not None else None

    def record(self, event: str, clip: str, reason: str, **details: object) -> None:
        """Write one record.

        Args:
            event: ``skipped``, ``replaced``, ``fallback``, ``note`` or ``blamed``; of ``stoa prepare`` others.
            clip: id of the clip.
            reason: one line.
            details: anything JSON can hold (path, replacement, epoch).

        Raises:
            StorageError: the disk is full or does not answer.
        """
        if self.path is None:
            return
        line = json.dumps({"event": event, "clip": clip, "reason": reason, **details}, ensure_ascii=False) + "\n"
        with writing(self.path):
            self._append(self.path, line)

    def _append(self, path: Path, line: str) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = descriptor_to_append(path)
        try:
            size = os.fstat(descriptor).st_size
            if size and os.pread(descriptor, 1, size - 1) != b"\n":  # a kill cut the line before short
                line = "\n" + line
            # One write, so that lines of several workers do not mix.
            content = line.encode(errors="backslashreplace")
            if os.write(descriptor, content) < len(content):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
        finally:
            os.close(descriptor)

    def blamed(self) -> dict[str, Blame]:
        """Clips on record as blamed, by their names (of :class:`stoa.data.clips.Clips`). Lines that a kill cut short
        are left out."""
        found: dict[str, Blame] = {}
        if self.path is None or not self.path.is_file():
            return found
        with open(self.path, "rb") as file:
            for line in file:
                record = _record(line, "blamed")
                if record is not None and type(record.get("epoch")) is int:
                    blame = Blame(record["epoch"], record["reason"])
                    name = str(record.get("name", record["clip"]))
                    found[name] = min(blame, found.get(name, blame))
        return found


def ledger_records(path: Path) -> Iterator[dict[str, Any]]:
    """Records of a ledger, one at a time, with ``event``, ``clip`` and ``reason``, which are texts; of a file that is
    not there none. Lines that a kill or a disk has damaged are left out.

    Raises:
        OSError: the file cannot be read.
    """
    if not path.is_file():
        return
    with open_log(path) as file:
        for line in log_lines(file, size_of(file)):
            record = object_in(line)
            if record is not None and all(isinstance(record.get(key), str) for key in ("event", "clip", "reason")):
                yield record


def _record(line: bytes, event: str) -> dict[str, Any] | None:
    """Of an event; what a kill or a disk has damaged is none."""
    if not (line.startswith(b'{"event": "%s"' % event.encode()) and line.endswith(b"\n")):
        return None
    try:
        record = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return record if isinstance(record.get("clip"), str) and isinstance(record.get("reason"), str) else None


class Replacements:
    """What a run says of the clips that were replaced: the first ones with their reasons, and at its end all by kind.

    Args:
        path: of the ledger, which all processes of the run write. What stands there already is of earlier calls.
    """

    NAMED, WORST, _MOST_TOLD = 5, 3, 1000

    def __init__(self, path: Path) -> None:
        self.path = path
        self._read_until = path.stat().st_size if path.is_file() else 0
        self._clips: dict[str, str] = {}
        self._told: dict[str, str] = {}
        self._times = Counter[str]()

    def new_lines(self) -> Iterator[str]:
        """On clips replaced for the first time since the last call, while they are the first ones of the run."""
        for record in self._new_records():
            clip = record["clip"]
            self._times[clip] += 1
            if clip in self._clips:
                continue
            self._clips[clip] = str(record.get("kind", "unusable"))
            told = f"{record.get('path')}: {record['reason']}"
            if len(self._told) < self._MOST_TOLD:
                self._told[clip] = told
            if len(self._clips) <= self.NAMED:
                yield f"clip {clip!r} is replaced, {self._clips[clip]}: {told}"
            elif len(self._clips) == self.NAMED + 1:
                yield f"more clips are replaced; {self.path} names them all"

    def worst(self) -> str:
        """The kinds of all that were replaced so far, and the clips that were most often, to go on a line with."""
        for _ in self.new_lines():
            pass
        often = "; ".join(
            f"clip {clip!r} ({count} times) {self._told.get(clip, '')}"
            for clip, count in self._times.most_common(self.WORST)
        )
        return f" ({self._kinds()}; the worst: {often}; all in {self.path})"

    def summary(self) -> Iterator[str]:
        """At the end, if there were any."""
        yield from self.new_lines()
        if self._clips:
            yield f"{len(self._clips):,} clips could not be read and were replaced: {self._kinds()}; see {self.path}"

    def _kinds(self) -> str:
        return ", ".join(f"{count:,} {kind}" for kind, count in Counter(self._clips.values()).most_common())

    def _new_records(self) -> Iterator[dict[str, Any]]:
        if not self.path.is_file():
            return
        with open(self.path, "rb") as file:
            file.seek(self._read_until)
            for line in file:
                if not line.endswith(b"\n"):  # another process is at it
                    break
                self._read_until += len(line)
                if (record := _record(line, "replaced")) is not None:
                    yield record
