"""Two profiles side by side, and what the second takes over the first."""

from __future__ import annotations

from pathlib import Path

from jsonargparse import ArgumentParser, Namespace

from stoa.files import write_whole

EXAMPLE = "stoa profile compare runs/a/profile runs/b/profile --out both.html"


def add_arguments(parser: ArgumentParser) -> None:
    parser.add_argument("first", type=str, help="folder that stoa profile has written, or its profile.json")
    parser.add_argument("second", type=str, help="another one")
    parser.add_argument("--out", type=str | None, default=None, help="HTML page to write")


def run(args: Namespace) -> None:
    from stoa.profiling.page import page
    from stoa.profiling.profile import read
    from stoa.profiling.table import lines

    profiles = [read(Path(args.first)), read(Path(args.second))]
    print("\n".join(lines(profiles)))
    if args.out is not None:
        write_whole(Path(args.out), page(profiles, f"{args.first} and {args.second}"))
        print(f"written to {args.out}")
