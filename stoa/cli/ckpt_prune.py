"""Delete all but the newest sound checkpoints of a run. Those that validation has chosen stay."""

from __future__ import annotations

from pathlib import Path

from jsonargparse import ArgumentParser, Namespace

from stoa.locks import only_writer

EXAMPLE = "stoa ckpt prune runs/stoa --keep 2"


def add_arguments(parser: ArgumentParser) -> None:
    parser.add_argument("run", type=Path, help="a run's folder (training.output_dir)")
    parser.add_argument("--keep", type=int, default=1, help="sound checkpoints to keep")


def run(args: Namespace) -> None:
    from stoa.training.checkpoint import CHECKPOINTS
    from stoa.training.inspection import folders
    from stoa.training.saving import prune

    if args.keep < 1:
        raise ValueError(f"--keep is {args.keep}; expected at least 1: a run without checkpoints is deleted by hand")
    folders(args.run / CHECKPOINTS)
    with only_writer(args.run, "run"):
        for path in prune(args.run / CHECKPOINTS, args.keep):
            print(f"deleted {path}")
