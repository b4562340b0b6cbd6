"""The model of the commands that use one on videos."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from jsonargparse import ArgumentParser, Namespace

if TYPE_CHECKING:
    from stoa.api import Clip, Model


def add_model(parser: ArgumentParser) -> None:
    parser.add_argument(
        "--model",
        type=str,
        default="small",
        help="a run, one of its checkpoints, an export, CLIP as NAME:TAG of open_clip, or small, which comes with the "
        "package and knows coloured shapes that move, not the world",
    )


def open_named(args: Namespace) -> Model:
    from stoa.api import load

    return load(args.model)


def add_part(parser: ArgumentParser) -> None:
    parser.add_argument("--start_seconds", type=float | None, default=None, help="of the part that is meant")
    parser.add_argument("--end_seconds", type=float | None, default=None, help="of the part that is meant")
    parser.add_argument("--detections", type=Path | None, default=None, help="objects, as stoa detect writes them")


def clip_of(args: Namespace, video: Path) -> Clip:
    """A video of a command with :func:`add_part`."""
    from stoa.api import Clip

    return Clip(video=video, start_seconds=args.start_seconds, end_seconds=args.end_seconds, detections=args.detections)
