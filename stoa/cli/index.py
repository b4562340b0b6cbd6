"""Index a folder of videos for stoa search: what is new or has changed is added, what is gone removed."""

from __future__ import annotations

import json
import os
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from jsonargparse import ArgumentParser, Namespace

from stoa.cli._model import add_model, open_named
from stoa.endings import Status
from stoa.locks import only_writer
from stoa.search.config import WindowConfig

if TYPE_CHECKING:
    from stoa.search.building import Summary

EXAMPLE = "stoa index holiday --windows.seconds 5 --windows.step_seconds 2.5"
_SHOWN = 20


def add_arguments(parser: ArgumentParser) -> None:
    parser.add_argument("videos", type=Path, help="folder; videos are known by their suffixes, those below it too")
    add_model(parser)
    parser.add_argument("--index", type=Path | None, default=None, help="where to write; default: .stoa-index there")
    parser.add_argument(
        "--detections", type=Path | None, default=None, help="folder of objects (.npz), each by the path of its video"
    )
    parser.add_class_arguments(WindowConfig, "windows")
    parser.add_argument("--num_workers", type=int, default=0, help="processes that decode")
    parser.add_argument("--retry", type=bool, default=False, help="try videos again that could not be read")
    parser.add_argument("--json", action="store_true", help="for machines")


def run(args: Namespace) -> int:
    from stoa.search.building import update
    from stoa.search.index import Index, Sources
    from stoa.search.opening import FOLDER

    for option, folder in (("the folder of videos", args.videos), ("--detections", args.detections)):
        if folder is not None and not folder.is_dir():
            raise ValueError(f"{option} is {folder}, which is no folder; name one")
    folder = args.index or args.videos / FOLDER
    boxes = None if args.detections is None else Path(os.path.abspath(args.detections))
    sources = Sources(Path(os.path.abspath(args.videos)), boxes, args.windows)
    model = open_named(args)
    model.num_workers = args.num_workers
    with only_writer(folder, "--index", wait=lambda line: print(line, file=sys.stderr, flush=True)):
        summary = update(Index.made(folder, model.key, model.width, sources), model, retry=args.retry)
    print(json.dumps(asdict(summary), indent=2) if args.json else "\n".join(_told(summary, folder)))
    return Status.GOOD if summary.total_windows else Status.BAD_INPUT


def _told(summary: Summary, folder: Path) -> list[str]:
    lines = [
        f"{summary.indexed:,} videos indexed, {summary.windows:,} windows ({summary.still:,} still ones left out); "
        f"{summary.kept:,} as they were, {summary.gone:,} gone",
        f"{summary.total_windows:,} windows in {folder}",
    ]
    if summary.without_boxes:
        lines.append(f"{summary.without_boxes:,} of them have no objects: no .npz by their path")
    if summary.problems:
        lines.append(f"{len(summary.problems):,} cannot be read, or not all of them:")
        lines += [f"  {video}: {why}" for video, why in sorted(summary.problems.items())[:_SHOWN]]
        if len(summary.problems) > _SHOWN:
            lines.append(f"  and {len(summary.problems) - _SHOWN:,} more; --json lists all")
    return lines
