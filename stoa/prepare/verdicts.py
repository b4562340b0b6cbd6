"""What a check found, file by file: a ledger of JSON lines that survives a kill and is not done twice."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType

from stoa.files import descriptor_to_append
from stoa.prepare.adapters.seen import SeenIds

PartSeconds = tuple[float | None, float | None]
"""Start and end of a part; None is the video's own."""

_BEGINNING = b'{"path": '
"""Of a verdict as it is written."""
_RULES = 3
"""Of what is bad; verdicts by other ones are not believed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """On a file, a clip of a shard or a row of a manifest.

    Attributes:
        path: of the file, from the folder of the data.
        clip: id of the clip or row, where the verdict is on one alone.
        part: of the video that the row names, if it names one.
        error: a kind of :class:`~stoa.data.decoding.base.DecodeError`, ``boxes`` or ``sum``; None when it is sound.
        reason: of the error, in one line.
        notes: what is odd and no error.
        frames_expected: by the packets, of a part from the keyframe before it; None where they cannot be read.
        frames_decoded: frames that decode.
        duration_seconds: of a video.
        seconds: the check took.
        size: bytes of the file.
        mtime: when it was last changed, as its file system tells. Size and time together are the state of the file
            that the verdict is on.
        split: whose clips of the file were looked at; None is all.
        rules: by which it was judged.
    """

    path: str
    clip: str | None = None
    part: PartSeconds | None = None
    error: str | None = None
    reason: str | None = None
    notes: tuple[str, ...] = ()
    frames_expected: int | None = None
    frames_decoded: int | None = None
    duration_seconds: float | None = None
    seconds: float | None = None
    size: int | None = None
    mtime: float | None = None
    split: str | None = None
    rules: int = _RULES

    @property
    def key(self) -> str:
        """Of the state of the file, or of a part of it."""
        return json.dumps([self.path, self.part, self.size, self.mtime, self.split, self.rules])


class CheckLedger:
    """Verdicts in a JSONL file, those of earlier calls included.

    Raises:
        ValueError: the file holds something else.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._known = SeenIds()
        self._told: dict[str, dict[str | None, Verdict]] = {}
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file = os.fdopen(descriptor_to_append(path), "ab")
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
        """Those of earlier calls on this state of the file that tell something, once."""
        return list(self._told.pop(verdict.key, {}).values())

    def write(self, verdicts: Iterable[Verdict]) -> None:
        """Append, and hand to the system at once.

        Raises:
            OSError: the disk is full or does not answer.
        """
        self._file.write(b"".join(json.dumps(asdict(verdict)).encode() + b"\n" for verdict in verdicts))
        self._file.flush()

    def _read(self) -> int:
        """Take in the whole lines; returns the bytes they have."""
        end = 0
        with open(self.path, "rb") as file:
            for number, line in enumerate(file, start=1):
                if not line.endswith(b"\n"):
                    if not _BEGINNING.startswith(line[: len(_BEGINNING)]):
                        raise ValueError(
                            f"{self.path}, row {number}: is no verdict of a check; pass another file as --ledger"
                        )
                    break
                end += len(line)
                try:
                    verdict = Verdict(**{"rules": 1, **json.loads(line)})
                except (TypeError, ValueError):
                    raise ValueError(
                        f"{self.path}, row {number}: is no verdict of a check; pass another file as --ledger"
                    ) from None
                if verdict.clip is None or verdict.part is not None:  # else it is on one clip of a file
                    self._known.add(verdict.key)
                if verdict.error is not None or verdict.notes:
                    self._told.setdefault(verdict.key, {})[verdict.clip] = verdict
        return end
