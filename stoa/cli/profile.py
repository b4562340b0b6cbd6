"""Where the time of a training step goes: what stoa train takes, measured over some steps, of which nothing is kept."""

from __future__ import annotations

from jsonargparse import ArgumentParser, Namespace

from stoa.cli.train import moving_shapes
from stoa.config import COMMAND, add_run_arguments, run_of
from stoa.profiling.run import profile

__all__ = ["COMMAND", "add_arguments", "run"]


def add_arguments(parser: ArgumentParser) -> None:
    add_run_arguments(parser)
    parser.add_argument("--steps", type=int, default=20, help="steps to time")
    parser.add_argument("--out", type=str | None, default=None, help="folder; default: profile in the run's own")


def run(args: Namespace) -> None:
    profile(
        run_of(args),
        args.deepspeed_config,
        steps=args.steps,
        option="--steps",
        default_data=moving_shapes,
        out=args.out,
    )
