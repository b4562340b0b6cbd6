"""Pre-train a video-language model. Every recipe value can be given here: --training.max_steps 2

On several GPUs: deepspeed --module stoa.cli train ..., or in a checkout deepspeed train.py ...
"""

from __future__ import annotations

import os
from pathlib import Path

from jsonargparse import ArgumentParser, Namespace

from stoa.config import COMMAND, add_run_arguments, run_of
from stoa.synthetic import SynthConfig, build_data_set

__all__ = ["COMMAND", "EXAMPLE", "add_arguments", "run"]

EXAMPLE = "stoa train --deepspeed_config ds_configs/demo.json --recipe recipes/demo.yaml"


def add_arguments(parser: ArgumentParser) -> None:
    add_run_arguments(parser)
    parser.add_argument(
        "--profile", type=int | None, default=None, help="measure so many steps and end, as stoa profile does"
    )


def run(args: Namespace) -> None:
    from stoa.profiling.run import profile
    from stoa.run import pretrain

    if args.profile is not None:
        profile(run_of(args), args.deepspeed_config, steps=args.profile, option="--profile", default_data=moving_shapes)
        return
    pretrain(run_of(args), args.deepspeed_config, default_data=moving_shapes, reshaped=args.resume_reshaped)


def moving_shapes(side: int, global_batch: int) -> Path:
    """The data used when a recipe names none: Moving Shapes at the model's size, two global batches at least."""
    clips = max(512, 2 * global_batch)
    folder = Path("data") / f"moving_shapes_{side}px_{clips}"
    config = SynthConfig(size=side, num_train=clips, num_val=64, num_test=64, num_galleries=16)
    build_data_set(config, folder, workers=len(os.sched_getaffinity(0)), wait=True)
    return folder / "manifest.jsonl"
