"""What checkpoints a run has, for people."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path

from stoa.fields import printable
from stoa.files import bytes_of, in_units
from stoa.training import checkpoint
from stoa.training.resumable import Shape


def folders(source: Path) -> list[Path]:
    """Checkpoints under what a user names: a run, a folder of checkpoints, or one of them.

    Raises:
        ValueError: there is none.
    """
    found = [source] if source.name.startswith(checkpoint.PREFIX) and source.is_dir() else []
    for folder in (source, source / checkpoint.BEST, source / checkpoint.CHECKPOINTS):
        found += checkpoint.steps_in(folder)
    if not found:
        raise ValueError(f"no checkpoint under {source}; name a run's folder (training.output_dir) or a step-N folder")
    return found


def described(path: Path) -> str:
    """A checkpoint in one line: size, time, and what it is for. Its content is not verified."""
    try:
        run = checkpoint.read_run(path)
        written = datetime.fromtimestamp((path / checkpoint.MANIFEST).stat().st_mtime).strftime("%Y-%m-%d %H:%M")
        use = f"{run['validation metric']} {run['validation']:.4f}" if "validation" in run else str(Shape.of(run))
    except (OSError, ValueError, KeyError, TypeError) as error:
        return printable(f"{path}  damaged: {' '.join(str(error).split())}")
    return printable(f"{path}  {in_units(bytes_of(path)):>9}  {written}  {use}")


def verified(path: Path) -> tuple[bool, str]:
    """Whether each file of a checkpoint is what was written, and a line that says so."""
    problem = checkpoint.damage(path)
    return problem is None, printable(f"{path}  {'sound' if problem is None else f'damaged: {problem}'}")
