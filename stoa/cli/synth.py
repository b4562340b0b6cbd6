"""Make a Moving Shapes data set: videos, captions, noisy detections, questions and hard sets."""

from __future__ import annotations

from dataclasses import fields

from jsonargparse import ArgumentParser, Namespace

from stoa.synthetic import SynthConfig, build_data_set

EXAMPLE = "stoa synth --out data/demo --num_train 10000 --workers 2"


def add_arguments(parser: ArgumentParser) -> None:
    parser.add_argument("--out", type=str, required=True, help="folder to write; a finished one is left as it is")
    parser.add_argument("--workers", type=int, default=1, help="processes to use")
    parser.add_class_arguments(SynthConfig, as_group=False)


def run(args: Namespace) -> None:
    config = SynthConfig(**{field.name: args[field.name] for field in fields(SynthConfig)})
    build_data_set(config, args.out, workers=args.workers)
