"""A trained model as files: weights with a configuration, and the dual encoder as graphs for torch and ONNX."""

from __future__ import annotations

from pathlib import Path

from jsonargparse import ArgumentParser, Namespace

from stoa.locks import only_writer

EXAMPLE = "stoa export --run runs/demo --out exported"


def add_arguments(parser: ArgumentParser) -> None:
    parser.add_argument("--run", type=str, required=True, help="a run's output_dir, or one of its checkpoints")
    parser.add_argument("--out", type=str, required=True, help="folder to write")
    parser.add_argument(
        "--compact", type=bool, default=False, help="half precision, and only the words it was trained on: a few MB"
    )
    parser.add_argument("--onnx", type=bool, default=False, help="the dual encoder as ONNX as well")


def run(args: Namespace) -> None:
    from stoa.tasks.export import CONFIG, WEIGHTS, export_dual_encoder, export_model, require_own_folder
    from stoa.tasks.opened import open_model

    out = Path(args.out)
    require_own_folder(out, "--out")
    with only_writer(out, "--out"):
        trained, abilities, facts, _ = open_model(args.run)
        written = export_dual_encoder(trained, out, onnx=args.onnx)
        export_model(trained, abilities, facts.get("task"), out, compact=args.compact)
    for path in (out / WEIGHTS, out / CONFIG, *written):
        print(path)
