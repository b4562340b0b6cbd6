"""What a check found, file by file: a ledger of JSON lines that survives a kill and is not done twice."""

from __future__ import annotations

import json
from array import array
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType

import numpy as np

from stoa.prepare.adapters.seen import SeenIds


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """On a file, a clip of a shard or a row of a manifest.

    Attributes:
        path: of the file, from the folder of the data.
        clip: id of the clip or row, where the verdict is on one alone.
        error: a kind of :class:`~stoa.data.decoding.base.DecodeError`, ``boxes`` or ``sum``; None when it is sound.
        reason: of the error, in one line.
        frames_expected: by the packets; None where they cannot be read.
        frames_decoded: frames that decode.
        duration_seconds: of a video.
        seconds: the check took.
        size: bytes of the file.
        mtime: when it was last changed, as its file system tells. Size and time together are the state of the file
            that the verdict is on.
        split: whose clips of the file were looked at; None is all.
    """

    path: str
    clip: str | None = None
    error: str | None = None
    reason: str | None = None
    frames_expected: int | None = None
    frames_decoded: int | None = None
    duration_seconds: float | None = None
    seconds: float | None = None
    size: int | None = None
    mtime: float | None = None
    split: str | None = None

    @property
    def key(self) -> str:
        """Of the state of the file; for a row, of what was said about it."""
        state = [self.clip, self.reason] if self.error == "range" else [self.size, self.mtime, self.split]
        return json.dumps([self.path, *state])


class CheckLedger:
    """Verdicts in a JSONL file, those of earlier calls included.

    Raises:
        ValueError: the file holds something else.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.durations = Durations()
        self._known = SeenIds()
        self._bad: dict[str, dict[str | None, Verdict]] = {}
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file = open(path, "ab")  # noqa: SIM115
        try:
            self._file.truncate(self._read())  # a kill may have cut the last line
        except BaseException:
            self._file.close()
            raise

    def __enter__(self) -> CheckLedger:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()

    def is_new(self, verdict: Verdict) -> bool:
        """Whether there is none on this state of its file yet; the next time there is."""
        return self._known.add(verdict.key)

    def recall(self, verdict: Verdict) -> list[Verdict]:
        """The bad ones of earlier calls on this state of the file, told once."""
        return list(self._bad.pop(verdict.key, {}).values())

    def write(self, verdicts: Iterable[Verdict]) -> None:
        """Append, and hand to the system at once.

        Raises:
            OSError: the disk is full or does not answer.
        """
        lines = []
        for verdict in verdicts:
            lines.append(json.dumps(asdict(verdict)).encode() + b"\n")
            self._remember_duration(verdict)
        self._file.write(b"".join(lines))
        self._file.flush()

    def _read(self) -> int:
        """Take in the whole lines; returns the bytes they have."""
        end = 0
        with open(self.path, "rb") as file:
            for number, line in enumerate(file, start=1):
                if not line.endswith(b"\n"):
                    break
                end += len(line)
                try:
                    verdict = Verdict(**json.loads(line))
                except (TypeError, ValueError):
                    raise ValueError(
                        f"{self.path}, row {number}: is no verdict of a check; pass another file as --ledger"
                    ) from None
                self._remember_duration(verdict)
                if verdict.clip is None or verdict.error == "range":
                    self._known.add(verdict.key)
                if verdict.error is not None and verdict.error != "range":
                    self._bad.setdefault(verdict.key, {})[verdict.clip] = verdict
        return end

    def _remember_duration(self, verdict: Verdict) -> None:
        if verdict.duration_seconds is not None and verdict.clip is None:
            self.durations.add(verdict.path, verdict.duration_seconds)


class Durations:
    """Seconds that videos last, in 16 bytes each while they are collected; the last one said holds."""

    def __init__(self) -> None:
        self._paths, self._seconds = array("q"), array("d")
        self._sorted: tuple[np.ndarray, np.ndarray] | None = None

    def add(self, path: str, seconds: float) -> None:
        self._paths.append(hash(path))
        self._seconds.append(seconds)
        self._sorted = None

    def find(self, path: str) -> float | None:
        """None for a video that none was said of."""
        if self._sorted is None:
            paths = np.array(self._paths, dtype=np.int64)
            order = np.argsort(paths, kind="stable")
            self._sorted = paths[order], np.array(self._seconds)[order]
        paths, seconds = self._sorted
        wanted = np.int64(hash(path))
        place = int(np.searchsorted(paths, wanted, side="right")) - 1
        return float(seconds[place]) if place >= 0 and paths[place] == wanted else None
