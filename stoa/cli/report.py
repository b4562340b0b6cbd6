"""One HTML file about a run, or two side by side: curves, evaluations, failures, configuration, hardware."""

from __future__ import annotations

from pathlib import Path

from jsonargparse import ArgumentParser, Namespace

from stoa.files import require_writable, write_whole

EXAMPLE = "stoa report runs/a --against runs/b --out a-and-b.html"


def add_arguments(parser: ArgumentParser) -> None:
    parser.add_argument("run", type=str, help="a run's output_dir")
    parser.add_argument("--against", type=str | None, default=None, help="output_dir of another run, shown beside it")
    parser.add_argument("--out", type=str | None, default=None, help="page to write; default: report.html in the run")


def run(args: Namespace) -> None:
    out = Path(args.out) if args.out else Path(args.run) / "report.html"
    if out.suffix.lower() not in (".html", ".htm"):
        raise ValueError(f"--out is {out}; expected a name that ends in .html")
    from stoa.viz.report.page import page
    from stoa.viz.report.sources import read_run

    runs = [read_run(Path(args.run), "run")]
    if args.against is not None:
        runs.append(read_run(Path(args.against), "--against"))
    require_writable(out.parent, "--out")
    out.parent.mkdir(parents=True, exist_ok=True)
    write_whole(out, page(runs))
    print(f"written to {out}")
