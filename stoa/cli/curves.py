"""Training curves of runs as a picture."""

from __future__ import annotations

from pathlib import Path

from jsonargparse import ArgumentParser, Namespace
from jsonargparse.typing import PositiveInt

from stoa.files import require_writable

EXAMPLE = "stoa curves --run runs/a --run runs/b --metrics '[loss, \"vtc,vtm\"]'"


def add_arguments(parser: ArgumentParser) -> None:
    parser.add_argument(
        "--run", type=str, action="append", required=True, help="a run's output_dir; give it again for further runs"
    )
    parser.add_argument(
        "--metrics", type=list[str], default=["loss"], help="panels; a comma joins metrics in one: '[\"vtc,vtm\", ota]'"
    )
    parser.add_argument("--smooth", type=PositiveInt, default=1, help="steps of a running mean")
    parser.add_argument(
        "--out", type=str | None, default=None, help="picture to write; default: curves.png in the first run"
    )


def run(args: Namespace) -> None:
    from stoa.viz.curves import draw_curves

    runs = [Path(run) for run in args.run]
    out = Path(args.out) if args.out else runs[0] / "curves.png"
    require_writable(out.parent, "--out")
    draw_curves(runs, [panel.split(",") for panel in args.metrics], out, smooth=args.smooth)
    print(f"written to {out}")
