"""Decode a whole data set and tell which clips are bad, and why. Call again to go on after an interruption.

The exit status is 0 when everything is sound, 1 when something is bad, 2 when the check cannot be done.
"""

from __future__ import annotations

from dataclasses import fields

from jsonargparse import ArgumentParser, Namespace

from stoa.prepare.check import CheckConfig, check

EXAMPLE = "stoa data check data/manifest.jsonl --workers 8"


def add_arguments(parser: ArgumentParser) -> None:
    parser.add_argument("data", type=str, help="manifest, folder of videos, or store (a folder or URL)")
    parser.add_class_arguments(CheckConfig, None)


def run(args: Namespace) -> int:
    config = CheckConfig(**{field.name: args[field.name] for field in fields(CheckConfig)})
    try:
        return 0 if check(args.data, config, say=lambda line: print(line, flush=True)) else 1
    except KeyboardInterrupt:
        return 130  # as a shell tells it
