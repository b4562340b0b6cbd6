"""The ledger: what was skipped, replaced or read another way, as JSONL that survives a kill."""

from __future__ import annotations

import errno
import json
import os
from pathlib import Path
from typing import NamedTuple

from stoa.files import writing


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
            event: ``skipped``, ``replaced``, ``fallback`` or ``blamed``; of ``stoa prepare`` others.
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
        descriptor = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o666)
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
        """Clips on record as blamed, by id. Lines that a kill cut short are left out."""
        found: dict[str, Blame] = {}
        if self.path is None or not self.path.is_file():
            return found
        with open(self.path, "rb") as file:
            for line in file:
                if line.startswith(b'{"event": "blamed"') and line.endswith(b"\n"):
                    try:
                        record = json.loads(line)
                    except ValueError:
                        continue
                    blame = Blame(record["epoch"], record["reason"])
                    found[record["clip"]] = min(blame, found.get(record["clip"], blame))
        return found
