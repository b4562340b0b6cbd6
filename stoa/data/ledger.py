"""The ledger: what was skipped, replaced or read another way, as JSONL that survives a kill."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import NamedTuple


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
            event: ``skipped``, ``replaced``, ``fallback`` or ``blamed``.
            clip: id of the clip.
            reason: one line.
            details: anything JSON can hold (path, replacement, epoch).
        """
        if self.path is None:
            return
        self.path.parent.mkdir(parents=True, exist_ok=True)
        line = json.dumps({"event": event, "clip": clip, "reason": reason, **details}, ensure_ascii=False) + "\n"
        descriptor = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
        try:
            # One write, so that lines of several workers do not mix.
            os.write(descriptor, line.encode(errors="backslashreplace"))
        finally:
            os.close(descriptor)

    def blamed(self) -> dict[str, Blame]:
        """Clips on record as blamed, by id. A last line that a kill cut short is left out."""
        found: dict[str, Blame] = {}
        if self.path is None or not self.path.is_file():
            return found
        with open(self.path, "rb") as file:
            for line in file:
                if line.startswith(b'{"event": "blamed"') and line.endswith(b"\n"):
                    record = json.loads(line)
                    blame = Blame(record["epoch"], record["reason"])
                    found[record["clip"]] = min(blame, found.get(record["clip"], blame))
        return found
