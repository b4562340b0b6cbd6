"""Say in words what videos, or parts of them, show."""

from __future__ import annotations

import json
from pathlib import Path

from jsonargparse import ArgumentParser, Namespace

from stoa.cli._model import add_model, add_part, clip_of, open_named

EXAMPLE = "stoa caption clip.mp4 --start_seconds 1 --end_seconds 3"


def add_arguments(parser: ArgumentParser) -> None:
    parser.add_argument("videos", type=Path, nargs="+", help="files")
    add_model(parser)
    add_part(parser)
    parser.add_argument("--json", action="store_true", help="for machines")


def run(args: Namespace) -> None:
    clips = [clip_of(args, video) for video in args.videos]
    captions = open_named(args).caption(clips, progress=True)
    if args.json:
        said = zip(args.videos, captions, strict=True)
        print(json.dumps([{"video": str(video), "caption": caption} for video, caption in said], indent=2))
    elif len(captions) == 1:
        print(captions[0])
    else:
        for video, caption in zip(args.videos, captions, strict=True):
            print(f"{video}: {caption}")
