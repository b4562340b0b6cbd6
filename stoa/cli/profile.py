"""Where the time of a training step goes: what stoa train takes, measured over some steps, of which nothing is kept."""

from __future__ import annotations

from jsonargparse import ArgumentParser, Namespace

from stoa.config import COMMAND, add_run_arguments, run_of

__all__ = ["COMMAND", "EXAMPLE", "add_arguments", "run"]

EXAMPLE = "stoa profile --recipe recipes/demo.yaml --deepspeed_config ds_configs/demo.json --steps 50"


def add_arguments(parser: ArgumentParser) -> None:
    add_run_arguments(parser)
    parser.add_argument("--steps", type=int, default=20, help="steps to time")
    parser.add_argument("--out", type=str | None, default=None, help="folder; default: profile in the run's own")


def run(args: Namespace) -> None:
    from stoa.cli.train import moving_shapes
    from stoa.profiling.run import profile

    profile(
        run_of(args),
        args.deepspeed_config,
        steps=args.steps,
        option="--steps",
        default_data=moving_shapes,
        out=args.out,
    )
