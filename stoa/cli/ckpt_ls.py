"""List the checkpoints of a run, with their sizes and what they are for."""

from __future__ import annotations

from pathlib import Path

from jsonargparse import ArgumentParser, Namespace

EXAMPLE = "stoa ckpt ls runs/stoa"


def add_arguments(parser: ArgumentParser) -> None:
    parser.add_argument("run", type=Path, help="a run's folder, or a checkpoint's")


def run(args: Namespace) -> None:
    from stoa.training.inspection import described, folders

    for path in folders(args.run):
        print(described(path))
