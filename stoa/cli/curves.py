"""Training curves of a run as a picture."""

from __future__ import annotations

from pathlib import Path

from jsonargparse import ArgumentParser, Namespace
from jsonargparse.typing import PositiveInt

from stoa.viz.curves import draw_curves


def add_arguments(parser: ArgumentParser) -> None:
    parser.add_argument("--run", type=str, required=True, help="a run's output_dir")
    parser.add_argument(
        "--metrics", type=list[str], default=["loss"], help="panels; a comma joins metrics in one: '[\"vtc,vtm\", ota]'"
    )
    parser.add_argument("--smooth", type=PositiveInt, default=1, help="steps of a running mean")
    parser.add_argument("--out", type=str | None, default=None, help="picture to write; default: curves.png in the run")


def run(args: Namespace) -> None:
    out = Path(args.out) if args.out else Path(args.run) / "curves.png"
    draw_curves(Path(args.run), [panel.split(",") for panel in args.metrics], out, smooth=args.smooth)
    print(f"written to {out}")
