"""Find what a sentence says, or what looks like a picture, in an indexed folder of videos."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from jsonargparse import ArgumentParser, Namespace

from stoa.cli._model import add_model, open_named
from stoa.files import require_writable
from stoa.names import file_name

if TYPE_CHECKING:
    from stoa.search.query import Found

EXAMPLE = 'stoa search "a red square moves left" --index holiday --cut found'


def add_arguments(parser: ArgumentParser) -> None:
    parser.add_argument("text", type=str | None, nargs="?", default=None, help="what to look for")
    parser.add_argument("--image", type=Path | None, default=None, help="a picture or video to look for instead")
    parser.add_argument("--index", type=Path, default=Path("."), help="folder that was indexed, or of the index itself")
    add_model(parser)
    parser.add_argument("--top_k", type=int, default=5, help="how many")
    parser.add_argument(
        "--rerank", type=int, default=10, help="best by cosine that the matching head looks at; 0: none"
    )
    parser.add_argument("--all", action="store_true", help="also those that are no confident match")
    parser.add_argument("--cut", type=Path | None, default=None, help="folder to write the parts found to, as MP4")
    parser.add_argument("--json", action="store_true", help="for machines")


def run(args: Namespace) -> None:
    from stoa.search.cutting import cut
    from stoa.search.opening import open_index
    from stoa.search.query import Searcher

    if (args.text is None) == (args.image is None):
        raise ValueError('give either a text to look for ("a red square moves left") or --image')
    if args.rerank < 0:
        raise ValueError(f"--rerank is {args.rerank}; expected 0 or more")
    if args.cut is not None:
        require_writable(args.cut, "--cut")
    model = open_named(args)
    searcher = Searcher(open_index(args.index, model), model)
    if args.image is not None:
        found = searcher.by_image(args.image, top_k=args.top_k)
    else:
        found = searcher.by_text(args.text, top_k=args.top_k, rerank=args.rerank)
    shown = [hit for hit in found if hit.confident or args.all]
    print(json.dumps([asdict(hit) for hit in shown], indent=2) if args.json else "\n".join(_table(shown, found)))
    if args.cut is not None:
        args.cut.mkdir(parents=True, exist_ok=True)
        for number, hit in enumerate(shown, start=1):
            part = f"{hit.place.start_seconds:.1f}-{hit.place.end_seconds:.1f}"
            out = args.cut / f"{number:02d}-{file_name(Path(hit.place.video).stem)}-{part}.mp4"
            cut(searcher.index.sources.videos / hit.place.video, hit.place.start_seconds, hit.place.end_seconds, out)
            print(out, file=sys.stderr if args.json else sys.stdout)


def _table(shown: list[Found], found: list[Found]) -> list[str]:
    if not shown:
        return [f"no confident match; the nearest has a cosine of {found[0].cosine:.3f}, and --all shows it"]
    lines = [f"{'cosine':>6}  {'match':>5}  {'at':<17}  video"]
    for hit in shown:
        match = "" if hit.match is None else f"{hit.match:.2f}"
        at = f"{_clock(hit.place.start_seconds)} to {_clock(hit.place.end_seconds)}"
        lines.append(f"{hit.cosine:6.3f}  {match:>5}  {at:<17}  {hit.place.video}")
        lines += [f"{'':32}  the same: {place.video} at {_clock(place.start_seconds)}" for place in hit.also]
    return lines


def _clock(seconds: float) -> str:
    """``0:07.5``, ``1:02:03.0``."""
    tenths = round(10 * seconds)
    minutes, rest = divmod(tenths, 600)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest / 10:04.1f}" if hours else f"{minutes}:{rest / 10:04.1f}"
