"""A profile as a file, which is read without torch."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path

from stoa.files import read_small, write_whole
from stoa.shapes import AT_LEAST_1, NUMBER, NUMBERS, TEXT, Shape, Value, problem_in

FOLDER = "profile"
"""Of a run, for its profile."""

UNEXPLAINED = "unexplained"


@dataclass(frozen=True, kw_only=True)
class Profile:
    """What was measured.

    Attributes:
        device: its driver's name, or ``cpu``.
        precision: of the products.
        ranks: processes.
        clips: of a step, of all ranks.
        steps: that were timed with a stopwatch, and as many without.
        step_seconds: median of those without.
        overhead: of the stopwatch: median ratio of a step with it to the one before without, less 1.
        parts: seconds of each part of a step, the mean of those with the stopwatch, and ``unexplained``.
        metrics: by the names that the field has for them.
        counts: of one step: tensor operations, and on a GPU launches and waits of the host for the device.
        memory_gib: most live bytes of tensors at a time, by kind, GiB.
        flops: closed form, of one rank's step, by part.
    """

    device: str
    precision: str
    ranks: int
    clips: int
    steps: int
    step_seconds: float
    overhead: float
    parts: dict[str, float]
    metrics: dict[str, float]
    counts: dict[str, int]
    memory_gib: dict[str, float]
    flops: dict[str, float]


_PARTS = Value("an object of seconds, not all 0", lambda parts: NUMBERS.fits(parts) and sum(parts.values()) > 0)
_SHAPE: Shape = {
    **dict.fromkeys(("device", "precision"), TEXT),
    **dict.fromkeys(("ranks", "clips", "steps"), AT_LEAST_1),
    **dict.fromkeys(("step_seconds", "overhead"), NUMBER),
    **dict.fromkeys(("metrics", "counts", "memory_gib", "flops"), NUMBERS),
    "parts": _PARTS,
}


def write(profile: Profile, path: Path) -> None:
    write_whole(path, json.dumps(asdict(profile), indent=2) + "\n")


def read(path: Path) -> Profile:
    """A profile that was written; ``path`` may be its folder.

    Raises:
        ValueError: it is none.
    """
    path = path / "profile.json" if path.is_dir() else path
    try:
        found = json.loads(read_small(path))
        if (problem := problem_in(found, _SHAPE, "")) is not None:
            raise ValueError(problem)
        return Profile(**found)
    except (OSError, TypeError, ValueError, RecursionError) as error:
        raise ValueError(f"{path} is no profile ({error}); 'stoa profile' writes one") from None
