"""Metrics of a run: JSONL always, TensorBoard beside it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from stoa.files import write_whole, writing

METRICS_FILE = "metrics.jsonl"


class MetricsLog:
    """``metrics.jsonl`` with one line a step, and TensorBoard event files.

    Args:
        folder: of the run.
        last_step: last step done; later ones are dropped from an earlier log: they will be done again.
        tensorboard: also write event files.
    """

    def __init__(self, folder: Path, *, last_step: int, tensorboard: bool) -> None:
        self.path = folder / METRICS_FILE
        with writing(self.path):
            folder.mkdir(parents=True, exist_ok=True)
            _keep_before(self.path, last_step)
            self._file = open(self.path, "a", encoding="utf-8")  # noqa: SIM115 (lives as long as the run)
        self._writer: Any = None
        if tensorboard:
            from torch.utils.tensorboard import SummaryWriter

            self._writer = SummaryWriter(str(folder / "tensorboard"), purge_step=last_step + 1)

    def write(self, step: int, values: dict[str, float]) -> None:
        """One line, which is in the file after :meth:`flush`.

        Raises:
            StorageError: the disk refuses.
        """
        with writing(self.path):
            self._write(step, values)

    def _write(self, step: int, values: dict[str, float]) -> None:
        self._file.write(json.dumps({"step": step, **values}) + "\n")
        if self._writer is not None:
            for name, value in values.items():
                self._writer.add_scalar(name, value, step)

    def flush(self) -> None:
        with writing(self.path):
            self._file.flush()
            if self._writer is not None:
                self._writer.flush()

    def close(self) -> None:
        with writing(self.path):
            self._file.close()
            if self._writer is not None:
                self._writer.close()


def read_metrics(path: Path) -> list[dict[str, float]]:
    """Records of a ``metrics.jsonl``; a last line cut short by a kill is left out."""
    records = []
    if path.is_file():
        for line in path.read_text(encoding="utf-8").splitlines():
            try:
                records.append(json.loads(line))
            except json.JSONDecodeError:
                break
    return records


def _keep_before(path: Path, last_step: int) -> None:
    if not path.is_file():
        return
    kept = [record for record in read_metrics(path) if record["step"] <= last_step]
    write_whole(path, "".join(json.dumps(record) + "\n" for record in kept))
