"""What the folder of a run holds, for a report on it. Nothing outside the folder is read, whatever links are in it."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from stoa.data.ledger import LEDGER_FILE
from stoa.profiling.profile import FOLDER as PROFILE_FOLDER
from stoa.profiling.profile import Profile
from stoa.profiling.profile import read as read_profile
from stoa.training import checkpoint
from stoa.training.facts import read_facts
from stoa.training.metrics import METRICS_FILE
from stoa.training.watchdog import HANGS
from stoa.viz.report.evaluations import Evaluation, read_evaluations
from stoa.viz.report.failures import Hang, Tally, read_hangs, read_ledger
from stoa.viz.report.panels import METRICS
from stoa.viz.thinning import Curves, read_curves

T = TypeVar("T")
_MOST_TOLD = 20


class Run(NamedTuple):
    """A run, as far as its folder tells.

    Attributes:
        name: the folder as the user gave it.
        curves: of its ``metrics.jsonl``, if there is one.
        last_record: when that was written to last.
        checkpoint: name of the newest whose ``run.json`` could be read.
        facts: in it.
        best: facts of the weights that validation has chosen.
        evaluations: reports beside the checkpoints.
        ledger, hangs, profile: where there are any.
        problems: files that could not be read, and why.
    """

    name: str
    curves: Curves | None
    last_record: str | None
    checkpoint: str | None
    facts: dict[str, Any] | None
    best: dict[str, Any] | None
    evaluations: list[Evaluation]
    ledger: Tally | None
    hangs: list[Hang]
    profile: Profile | None
    problems: list[str]


def read_run(folder: Path, option: str) -> Run:
    """Read what there is.

    Raises:
        ValueError: the folder is none of a run; the message names ``option``.
    """
    if not folder.is_dir():
        raise ValueError(f"{option} {folder} is no folder; pass the output_dir of a run")
    reader = _Reader(folder)
    log = reader.there(folder / METRICS_FILE)
    newest = reader.newest(folder / checkpoint.CHECKPOINTS)
    best = reader.newest(folder / checkpoint.BEST)
    files = [path for path in reader.entries(folder) if path.suffix == ".json"]
    evaluations, problems = read_evaluations(files)
    if log is None and newest is None and best is None and not evaluations and not reader.problems:
        raise ValueError(
            f"{option} {folder} holds neither {METRICS_FILE} nor checkpoints nor reports; pass the output_dir of a run"
        )
    reader.problems += problems
    ledger = reader.there(folder / LEDGER_FILE)
    profile = reader.there(folder / PROFILE_FOLDER / "profile.json")
    newest = newest or best
    hangs = reader.entries(folder / HANGS)
    return Run(
        str(folder),
        None if log is None else reader.read(log, lambda path: read_curves(path, METRICS)),
        None if log is None else f"{datetime.fromtimestamp(log.stat().st_mtime):%Y-%m-%d %H:%M}",
        None if newest is None else newest[0],
        None if newest is None else newest[1],
        None if best is None else best[1],
        evaluations,
        None if ledger is None else reader.read(ledger, read_ledger),
        reader.read(folder / HANGS, lambda _: read_hangs(hangs)) or [],
        None if profile is None else reader.read(profile, read_profile),
        reader.problems[:_MOST_TOLD],
    )


class _Reader:
    """Of one folder; what it cannot read becomes a line in ``problems``."""

    def __init__(self, folder: Path) -> None:
        self._folder, self._root = folder, os.path.realpath(folder)
        self.problems: list[str] = []

    def there(self, path: Path) -> Path | None:
        """The path, if there is something, and it is in the folder."""
        if not os.path.lexists(path):
            return None
        if not Path(os.path.realpath(path)).is_relative_to(self._root):
            self.problems.append(f"{path.relative_to(self._folder)} leads out of the folder of the run and is not read")
            return None
        return path

    def read(self, path: Path, how: Callable[[Path], T]) -> T | None:
        try:
            return how(path)
        except (OSError, ValueError) as error:
            self.problems.append(f"{path.relative_to(self._folder)}: {' '.join(str(error).split())[:200]}")
            return None

    def entries(self, folder: Path) -> list[Path]:
        """Files of a folder, by their names."""
        if self.there(folder) is None or not folder.is_dir():
            return []
        found = self.read(folder, lambda path: sorted(path.iterdir())) or []
        return [path for path in found if not path.is_dir() and self.there(path) is not None]

    def newest(self, folder: Path) -> tuple[str, dict[str, Any]] | None:
        """Name and facts of the newest checkpoint that has them."""
        for path in self._newest_first(folder):
            facts = self.read(path / checkpoint.RUN, read_facts)
            if facts is not None:
                return f"{folder.name}/{path.name}", facts
        return None

    def _newest_first(self, folder: Path) -> Iterator[Path]:
        if self.there(folder) is None:
            return
        for path in reversed(self.read(folder, checkpoint.steps_in) or []):
            if self.there(path / checkpoint.RUN) is not None:
                yield path
