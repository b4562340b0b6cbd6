"""Videos and their published annotations, made into stores to train from. Call again to go on after an interruption."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path
from typing import Literal

from jsonargparse import ArgumentParser, Namespace
from jsonargparse.typing import PositiveInt

from stoa.arguments import Command
from stoa.arguments.needs import PREPARATION
from stoa.prepare.adapters import ADAPTERS, open_annotations
from stoa.prepare.config import PrepareConfig

COMMAND = Command(PREPARATION)
EXAMPLE = "stoa prepare --dataset msrvtt --annotations msrvtt --videos msrvtt/videos --out data/msrvtt --workers 8"


def add_arguments(parser: ArgumentParser) -> None:
    layouts = ", ".join(ADAPTERS)
    parser.add_argument("--dataset", type=str, default="manifest", help=f"layout of the annotations: {layouts}")
    parser.add_argument("--annotations", type=str, required=True, help="folder of the published files, or the file")
    parser.add_argument("--engine", type=Literal["local", "ray"], default="local", help="who makes the shards")
    parser.add_argument("--workers", type=PositiveInt, default=1, help="shards made at once")
    parser.add_class_arguments(PrepareConfig, as_group=False)


def run(args: Namespace) -> None:
    from stoa.prepare.pipeline import prepare

    given = Path(args.annotations)
    prepare(
        PrepareConfig(**{field.name: args[field.name] for field in fields(PrepareConfig)}),
        open_annotations(args.dataset, given),
        given.parent if given.is_file() else given,
        engine=args.engine,
        workers=args.workers,
        say=lambda line: print(line, flush=True),
    )
