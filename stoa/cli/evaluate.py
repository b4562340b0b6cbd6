"""Retrieval with a trained model: recall and ranks against chance and the untrained model, hard sets included."""

from __future__ import annotations

from pathlib import Path

import torch
from jsonargparse import ArgumentParser, Namespace
from jsonargparse.typing import PositiveInt

from stoa.config import from_dict
from stoa.data.decoding.cpu import CpuDecoder
from stoa.tasks.report import format_report, retrieval_report, write_report
from stoa.tasks.trained import load_trained
from stoa.training import checkpoint


def add_arguments(parser: ArgumentParser) -> None:
    parser.add_argument("--run", type=str, required=True, help="a run's output_dir, or one of its checkpoints")
    parser.add_argument("--manifest", type=str, required=True, help="manifest that holds the gallery")
    parser.add_argument("--split", type=str, default="test", help="rows of the manifest")
    parser.add_argument("--hard", type=str | None, default=None, help="folder of hard-set manifests")
    parser.add_argument("--top_k", type=PositiveInt, default=32, help="candidates the matching head re-ranks")
    parser.add_argument("--decoder", type=CpuDecoder, default="auto", help="video decoder")
    parser.add_argument("--batch_size", type=PositiveInt, default=16, help="videos encoded at once")
    parser.add_argument(
        "--out", type=str | None, default=None, help="JSON report; default: beside the checkpoint's run"
    )


def run(args: Namespace) -> None:
    folder = checkpoint.find(args.run)
    config = from_dict(checkpoint.read_run(folder)["config"])
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    report = retrieval_report(
        load_trained(folder, config.model, device),
        Path(args.manifest),
        split=args.split,
        hard=Path(args.hard) if args.hard else None,
        top_k=args.top_k,
        decoder=args.decoder,
        batch_size=args.batch_size,
        null_token=config.objectives.null_token,
    )
    out = Path(args.out) if args.out else folder.parent.parent / f"retrieval-{args.split}.json"
    write_report(report, out)
    print(format_report(report))
    print(f"written to {out}")
