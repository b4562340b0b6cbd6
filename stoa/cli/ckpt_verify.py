"""Read every file of a run's checkpoints and tell which are sound. The exit status is 1 when one is not."""

from __future__ import annotations

from pathlib import Path

from jsonargparse import ArgumentParser, Namespace

EXAMPLE = "stoa ckpt verify runs/stoa"


def add_arguments(parser: ArgumentParser) -> None:
    parser.add_argument("run", type=Path, help="a run's folder, or a checkpoint's")


def run(args: Namespace) -> int:
    from stoa.training.inspection import folders, verified

    status = 0
    for path in folders(args.run):
        sound, line = verified(path)
        print(line, flush=True)
        status = status if sound else 1
    return status
