"""A picture of one clip: its trajectories, and the noun or verb each token was matched to."""

from __future__ import annotations

from pathlib import Path

from jsonargparse import ArgumentParser, Namespace

from stoa.arguments import Command
from stoa.arguments.needs import EXPLANATION
from stoa.files import require_writable
from stoa.names import file_name

COMMAND = Command(EXPLANATION)
EXAMPLE = "stoa explain --run runs/demo --manifest data/demo/manifest.jsonl"


def add_arguments(parser: ArgumentParser) -> None:
    parser.add_argument("--run", type=str, required=True, help="a run, one of its checkpoints, or an export")
    parser.add_argument("--manifest", type=str, required=True, help="manifest that holds the clip")
    parser.add_argument("--clip", type=str | None, default=None, help="id of the clip; default: the first of the split")
    parser.add_argument("--split", type=str, default="test", help="rows to take the first clip from")
    parser.add_argument(
        "--labels", type=str | None, default=None, help="file of class names; default: labels.json by the manifest"
    )
    parser.add_argument("--out", type=str | None, default=None, help="picture to write; default: beside the run")


def run(args: Namespace) -> None:
    from stoa.manifest import read_manifest
    from stoa.prepare.detections import read_class_names
    from stoa.tasks.explain import explain
    from stoa.tasks.opened import open_model
    from stoa.viz.explain import draw_explanation

    trained, abilities, _, folder = open_model(args.run)
    manifest = Path(args.manifest)
    rows = read_manifest(manifest, split=None if args.clip else args.split)
    found = [row for row in rows if args.clip in (None, row.id)]
    if not found:
        raise ValueError(f"--clip {args.clip!r} is not in {manifest}; its clips are {rows[0].id!r} to {rows[-1].id!r}")
    labels = Path(args.labels or manifest.parent / "labels.json")
    require_writable(Path(args.out).parent if args.out else folder, "--out")
    explanation = explain(
        trained,
        found[0],
        manifest.parent,
        class_names=read_class_names(labels) if args.labels or labels.is_file() else [],
        null_token=abilities.null_token,
    )
    out = Path(args.out) if args.out else folder / f"explain-{file_name(explanation.clip)}.png"
    draw_explanation(explanation, out)
    print(f"written to {out}")
