"""Serve a page on which an indexed folder is searched, played, captioned and asked about."""

from __future__ import annotations

import sys
from pathlib import Path

from jsonargparse import ArgumentParser, Namespace

from stoa.cli._model import add_model, open_named

EXAMPLE = "stoa serve --index holiday --port 8000"


def add_arguments(parser: ArgumentParser) -> None:
    parser.add_argument("--index", type=Path, default=Path("."), help="folder that was indexed, or of the index itself")
    add_model(parser)
    parser.add_argument("--host", type=str, default="127.0.0.1", help="address to listen on; default: this machine's")
    parser.add_argument("--port", type=int, default=8000, help="0: any that is free")
    parser.add_argument("--top_k", type=int, default=6, help="hits of a search")
    parser.add_argument("--work_seconds", type=float, default=60.0, help="after which a request is given up")


def run(args: Namespace) -> None:
    try:
        from stoa.serve.app import serving
        from stoa.serve.server import address_of, is_loopback, listen, run_until_told
    except ImportError as error:
        raise ValueError(f"stoa serve needs {error.name}: pip install 'stoa[serve]'") from None
    from stoa.search.opening import open_index
    from stoa.search.query import Searcher
    from stoa.serve.limits import Limits

    if args.top_k < 1:
        raise ValueError(f"--top_k is {args.top_k}; expected at least 1")
    if not args.work_seconds > 0:
        raise ValueError(f"--work_seconds is {args.work_seconds}; expected a number above 0")
    limits = Limits(work_seconds=args.work_seconds)
    with listen(args.host, args.port) as listener:  # before the model is read, which takes its time
        model = open_named(args)
        searcher = Searcher(open_index(args.index, model), model)
        if not is_loopback(listener):
            print(
                f"warning: whoever reaches port {listener.getsockname()[1]} of this machine sees the videos; without "
                "--host only this machine does",
                file=sys.stderr,
            )
        with serving(searcher, host=args.host, small=args.model == "small", top_k=args.top_k, limits=limits) as app:
            videos, windows = len(searcher.files), len(searcher.vectors.files_W)
            print(
                f"{address_of(args.host, listener)} searches {windows:,} windows of {videos:,} videos; Ctrl-C ends",
                flush=True,
            )
            run_until_told(app, listener, limits)
    print("ended")
