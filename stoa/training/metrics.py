"""Metrics of a run: JSONL always, TensorBoard beside it."""

from __future__ import annotations

import errno
import json
import os
import sys
from collections import deque
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from stoa.files import descriptor_to_append, replacing, writing
from stoa.logs import is_damaged, log_lines, object_in, open_log, size_of

METRICS_FILE = "metrics.jsonl"
_MOST_NAMED = 5


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
    """All that :func:`metric_records` gives."""
    return list(metric_records(path))


def metric_records(path: Path) -> Iterator[dict[str, Any]]:
    """Records of a ``metrics.jsonl``, one at a time, without those of steps that were done again; of a file that is not
    there none. Lines that are none are left out and told on stderr, but for a last one that a kill has cut short.

    Raises:
        OSError: the file cannot be read.
    """
    if not path.is_file():
        return
    damaged, first = 0, list[int]()
    with open_log(path) as file:
        size = size_of(file)  # what a training adds meanwhile is of the next call
        returns = _returns(log_lines(file, size))
        for number, line in enumerate(log_lines(file, size), start=1):
            while returns and returns[0].line <= number:
                returns.popleft()
            record = _record(line)
            if record is None and is_damaged(line):
                damaged += 1
                first += [number] if damaged <= _MOST_NAMED else []
            if record is not None and not (returns and record["step"] >= returns[0].step):
                yield record
    if damaged:
        shown = ", ".join(map(str, first)) + (", ..." if damaged > len(first) else "")
        print(f"{path}: {damaged} line(s) are no records and are left out (line {shown})", file=sys.stderr)


class _Return(NamedTuple):
    """The first record of a later generation: earlier ones of its step and of those after it do not count."""

    line: int
    step: int


def _returns(lines: Iterable[bytes]) -> deque[_Return]:
    """Those that any earlier line has to be compared with, by line and by step alike: the first one behind it."""
    found, generation = deque[_Return](), 0
    for number, line in enumerate(lines, start=1):
        record = _record(line) if b'"generation"' in line else None
        if record is None or record.get("generation", 0) <= generation:
            continue
        generation = record["generation"]
        while found and found[-1].step >= record["step"]:
            found.pop()
        found.append(_Return(number, record["step"]))
    return found


def _record(line: bytes) -> dict[str, Any] | None:
    record = object_in(line)
    if record is None or not _is_count(record.get("step")) or not _is_count(record.get("generation", 0)):
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
    with replacing(path) as temporary, open(temporary, "w", encoding="utf-8") as file:
        file.writelines(json.dumps(record) + "\n" for record in metric_records(path) if record["step"] <= last_step)
