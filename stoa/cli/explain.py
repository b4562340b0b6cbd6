"""A picture of one clip: its trajectories, and the noun or verb each token was matched to."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from jsonargparse import ArgumentParser, Namespace

from stoa.config import from_dict
from stoa.manifest import read_manifest
from stoa.tasks.explain import explain
from stoa.tasks.trained import load_trained
from stoa.training import checkpoint
from stoa.viz.explain import draw_explanation


def add_arguments(parser: ArgumentParser) -> None:
    parser.add_argument("--run", type=str, required=True, help="a run's output_dir, or one of its checkpoints")
    parser.add_argument("--manifest", type=str, required=True, help="manifest that holds the clip")
    parser.add_argument("--clip", type=str | None, default=None, help="id of the clip; default: the first of the split")
    parser.add_argument("--split", type=str, default="test", help="rows to take the first clip from")
    parser.add_argument(
        "--labels", type=str | None, default=None, help="JSON list of class names; default: labels.json by the manifest"
    )
    parser.add_argument("--out", type=str | None, default=None, help="picture to write; default: beside the run")


def run(args: Namespace) -> None:
    folder = checkpoint.find(args.run)
    config = from_dict(checkpoint.read_run(folder)["config"])
    manifest = Path(args.manifest)
    rows = read_manifest(manifest, split=None if args.clip else args.split)
    found = [row for row in rows if args.clip in (None, row.id)]
    if not found:
        raise ValueError(f"--clip {args.clip!r} is not in {manifest}; its clips are {rows[0].id!r} to {rows[-1].id!r}")
    explanation = explain(
        load_trained(folder, config.model, torch.device("cuda" if torch.cuda.is_available() else "cpu")),
        found[0],
        manifest.parent,
        class_names=_class_names(args.labels, manifest.parent / "labels.json"),
        null_token=config.objectives.null_token,
    )
    out = Path(args.out) if args.out else folder.parent.parent / f"explain-{explanation.clip}.png"
    draw_explanation(explanation, out)
    print(f"written to {out}")


def _class_names(given: str | None, default: Path) -> list[str]:
    path = Path(given) if given else default
    if not path.is_file():
        if given:
            raise ValueError(f"--labels {path} does not exist; pass a JSON file with the list of class names")
        return []
    try:
        names = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path}: not valid JSON ({error}); expected a list of class names") from None
    if not isinstance(names, list):
        raise ValueError(f"{path}: holds a {type(names).__name__}; expected a list of class names")
    return [str(name) for name in names]
