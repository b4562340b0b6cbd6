"""Metrics of a run: JSONL always, TensorBoard beside it."""

from __future__ import annotations

import errno
import json
import os
import sys
from pathlib import Path
from typing import Any

from stoa.files import descriptor_to_append, write_whole, writing

METRICS_FILE = "metrics.jsonl"


class MetricsLog:
    """``metrics.jsonl`` with one line a step, and TensorBoard event files.

    Args:
        folder: of the run.
        last_step: last step done; later ones are dropped from an earlier log: they will be done again.
        tensorboard: also write event files.
        generation: how often the run has gone back to a checkpoint; each record has it, where it is not 0.
    """

    def __init__(self, folder: Path, *, last_step: int, tensorboard: bool, generation: int = 0) -> None:
        self.path = folder / METRICS_FILE
        with writing(self.path):
            folder.mkdir(parents=True, exist_ok=True)
            _keep_before(self.path, last_step)
            self._file = os.fdopen(descriptor_to_append(self.path), "a", encoding="utf-8")
        self._generation = {"generation": generation} if generation else {}
        self._writer: Any = None
        if tensorboard:
            from torch.utils.tensorboard import SummaryWriter

            self._writer = SummaryWriter(str(folder / "tensorboard"), purge_step=last_step + 1)

    def roll_back(self, generation: int) -> None:
        """The records to come are of a run that has gone back; those of the steps that it does again stay in the file,
        and :func:`read_metrics` leaves them out."""
        self._generation = {"generation": generation}

    def write(self, step: int, values: dict[str, float]) -> None:
        """One line, which is in the file after :meth:`flush`.

        Raises:
            StorageError: the disk refuses.
        """
        with writing(self.path):
            self._write(step, values)

    def _write(self, step: int, values: dict[str, float]) -> None:
        self._file.write(json.dumps({"step": step, **values, **self._generation}) + "\n")
        if self._writer is not None:
            for name, value in values.items():
                self._writer.add_scalar(name, value, step)

    def flush(self) -> None:
        """Hand it to the system.

        Raises:
            StorageError: the disk refuses, or the file has been removed or replaced.
        """
        with writing(self.path):
            self._file.flush()
            if not os.path.samestat(os.fstat(self._file.fileno()), os.stat(self.path)):
                raise OSError(errno.ESTALE, os.strerror(errno.ESTALE))
            if self._writer is not None:
                self._writer.flush()

    def close(self) -> None:
        with writing(self.path):
            self._file.close()
            if self._writer is not None:
                self._writer.close()


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """Records of a ``metrics.jsonl``, without those of steps that were done again. Lines that are none are left out and
    told on stderr, but for a last one that a kill has cut short."""
    lines = path.read_bytes().split(b"\n") if path.is_file() else []
    records = [_record(line) for line in lines]
    damaged = [number for number, record in enumerate(records[:-1], start=1) if record is None and lines[number - 1]]
    if damaged:
        shown = ", ".join(map(str, damaged[:5])) + (", ..." if len(damaged) > 5 else "")
        print(f"{path}: {len(damaged)} line(s) are no records and are left out (line {shown})", file=sys.stderr)
    return _last_generation([record for record in records if record is not None])


def _last_generation(records: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Without the steps that a later generation has done again."""
    kept: list[dict[str, Any]] = []
    generation = 0
    for record in records:
        if record.get("generation", 0) > generation:
            generation = record["generation"]
            kept = [earlier for earlier in kept if earlier["step"] < record["step"]]
        kept.append(record)
    return kept


def _record(line: bytes) -> dict[str, Any] | None:
    try:
        record = json.loads(line)
    except (ValueError, RecursionError):  # that it is no UTF-8 is a ValueError too
        return None
    if not isinstance(record, dict) or not _is_count(record.get("step")) or not _is_count(record.get("generation", 0)):
        return None
    return record if all(map(_is_of_a_log, record.values())) else None


def _is_count(value: Any) -> bool:
    return type(value) is int and 0 <= value < 1 << 63


def _is_of_a_log(value: Any) -> bool:
    """A number that a float can be; NaN and infinities are, and None where there was nothing to tell."""
    return value is None or isinstance(value, float) or (isinstance(value, int) and abs(value) < 1 << 1000)


def _keep_before(path: Path, last_step: int) -> None:
    if not path.is_file():
        return
    kept = [record for record in read_metrics(path) if record["step"] <= last_step]
    write_whole(path, "".join(json.dumps(record) + "\n" for record in kept))
