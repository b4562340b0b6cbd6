"""Make a run for another number of processes, stage of ZeRO or batch of the newest checkpoint of one.

Training does the same in place with --resume-reshaped.
"""

from __future__ import annotations

from pathlib import Path

from jsonargparse import ArgumentParser, Namespace

EXAMPLE = "stoa ckpt convert runs/stoa --out runs/on-16 --processes 16"


def add_arguments(parser: ArgumentParser) -> None:
    parser.add_argument("run", type=Path, help="a run's folder, or a checkpoint's")
    parser.add_argument("--out", type=Path, required=True, help="folder of the new run")
    parser.add_argument("--processes", type=int, required=True, help="of the new run, one for each GPU")
    parser.add_argument("--deepspeed_config", type=str | None, default=None, help="its JSON; default: as it was")


def run(args: Namespace) -> None:
    from stoa.training.conversion import convert

    if args.processes < 1:
        raise ValueError(f"--processes is {args.processes}; expected at least 1")
    lines = convert(args.run, args.out, processes=args.processes, deepspeed_config=args.deepspeed_config)
    print("\n".join(lines))
