"""The evaluation a user runs: numbers, what they are compared with, and how they were made."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import stoa
from stoa.data.decoding.cpu import CpuDecoder
from stoa.files import sha256, write_whole
from stoa.manifest import ClipRow, read_manifest
from stoa.objectives.matching import NullToken
from stoa.tasks.gallery import Gallery, encode_galleries
from stoa.tasks.matching import MatchAccuracy, evaluate_matching
from stoa.tasks.metrics import RankMetrics, chance_metrics
from stoa.tasks.retrieval import evaluate_hard_set, evaluate_retrieval
from stoa.tasks.trained import TrainedModel, untrained
from stoa.training.state import commit, versions

HARD_CHANCE = 25.0


def retrieval_report(
    trained: TrainedModel,
    manifest: Path,
    *,
    split: str,
    hard: Path | None,
    top_k: int,
    decoder: CpuDecoder,
    batch_size: int,
    null_token: NullToken,
) -> dict[str, Any]:
    """Retrieval of the trained and the untrained model, hard sets, matches of trajectories to nouns, chance, and the
    protocol card.

    Args:
        trained: the model.
        manifest: file with the gallery.
        split: its rows.
        hard: folder of hard-set manifests (``<kind>.jsonl``), or none.
        top_k: candidates that the matching head re-ranks.
        decoder, batch_size: see :func:`stoa.tasks.gallery.encode_galleries`.
        null_token: of the model's objectives.

    Raises:
        ValueError: a manifest is wrong or none of its videos can be read.
    """
    models = {"trained": trained, "untrained": untrained(trained)}

    def encode(rows: Sequence[ClipRow], root: Path) -> dict[str, Gallery]:
        galleries = encode_galleries(list(models.values()), rows, root, decoder=decoder, batch_size=batch_size)
        return dict(zip(models, galleries, strict=True))

    hard_manifests = sorted(hard.glob("*.jsonl")) if hard is not None else []
    if hard is not None and not hard_manifests:
        raise ValueError(f"--hard {hard} holds no .jsonl manifest; name the folder 'hard' of a Moving Shapes set")
    rows = read_manifest(manifest, split=split)
    galleries = encode(rows, manifest.parent)
    gallery = galleries["trained"]
    report: dict[str, Any] = {
        "retrieval": {name: evaluate_retrieval(model, galleries[name], top_k=top_k) for name, model in models.items()},
        "chance": {
            "text-to-video": chance_metrics(gallery.relevant_QV),
            "video-to-text": chance_metrics(gallery.relevant_QV.T),
        },
        "hard_sets": {},
        "matches": {},
        "unreadable": dict(gallery.unreadable),
    }
    if trained.model.config.objects.num_trajectories:
        report["matches"] = {
            name: evaluate_matching(model, galleries[name], null_token=null_token) for name, model in models.items()
        }
    for path in hard_manifests:
        hard_galleries = encode(read_manifest(path), path.parent)
        results = {name: evaluate_hard_set(model, hard_galleries[name]) for name, model in models.items()}
        report["hard_sets"][path.stem] = results
        report["unreadable"] |= dict(hard_galleries["trained"].unreadable)
    report["protocol"] = _protocol(trained, gallery, manifest, split, len(rows), top_k, decoder)
    return report


def _protocol(
    trained: TrainedModel, gallery: Gallery, manifest: Path, split: str, num_rows: int, top_k: int, decoder: str
) -> dict[str, Any]:
    parameter = next(trained.model.parameters())
    return {
        "manifest": str(manifest),
        "manifest sha256": sha256(manifest),
        "split": split,
        "videos": f"{len(gallery.ids)} of {num_rows} readable",
        "captions": len(gallery.video_of_text_Q),
        "frames": f"{trained.model.config.num_frames} by time, {trained.side} px",
        "decoder": decoder,
        "re-ranked candidates": min(top_k, len(gallery.ids)),
        "precision": str(parameter.dtype).removeprefix("torch."),
        "device": str(trained.device),
        "evaluated at commit": commit(),
        "stoa": stoa.__version__,
        "versions": versions(),
        **trained.origin,
    }


def write_report(report: dict[str, Any], path: Path) -> None:
    """Write the report as JSON, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, json.dumps(report, indent=2, default=_to_dict) + "\n")


def _to_dict(value: RankMetrics | MatchAccuracy) -> dict[str, float]:
    return value.to_dict()


def format_report(report: dict[str, Any]) -> str:
    """The report as tables for a terminal."""
    lines = [f"{'':32}{'R@1':>8}{'R@5':>8}{'R@10':>8}{'MdR':>8}{'MnR':>8}"]

    def row(name: str, metrics: RankMetrics) -> None:
        values = (metrics.r1, metrics.r5, metrics.r10, metrics.median_rank, metrics.mean_rank)
        lines.append(f"{name:32}" + "".join(f"{value:8.1f}" for value in values))

    for direction in ("text-to-video", "video-to-text"):
        lines.append(direction)
        for method in ("itc", "itc+vtm"):
            row(f"  {method}", report["retrieval"]["trained"][method][direction])
        for method in ("itc", "itc+vtm"):
            row(f"  {method}, untrained", report["retrieval"]["untrained"][method][direction])
        row("  chance", report["chance"][direction])
    if report["hard_sets"]:
        lines += ["", f"{'hard sets, accuracy of 4 (%)':32}{'vtm':>8}{'itc':>8}{'untrained':>11}{'chance':>8}"]
        for kind, result in report["hard_sets"].items():
            trained, fresh = result["trained"], result["untrained"]
            lines.append(f"  {kind:30}{trained['vtm']:8.1f}{trained['itc']:8.1f}{fresh['vtm']:11.1f}{HARD_CHANCE:8.1f}")
    if report["matches"].get("trained"):
        lines += [
            "",
            f"{'trajectories matched to nouns (%)':32}{'right':>8}{'untrained':>11}{'chance':>8}{'matches':>9}",
        ]
        for name, result in report["matches"]["trained"].items():
            fresh = report["matches"]["untrained"].get(name)
            title = {"distinct": "objects of distinct classes", "twins": "two objects of one class"}[name]
            untrained_accuracy = f"{fresh.accuracy:11.1f}" if fresh else f"{'-':>11}"
            values = f"{result.accuracy:8.1f}{untrained_accuracy}{result.chance:8.1f}{result.matches:9d}"
            lines.append(f"  {title:30}{values}")
    if report["unreadable"]:
        clip, why = next(iter(report["unreadable"].items()))
        lines += ["", f"{len(report['unreadable'])} videos could not be read and are left out, the first {clip}: {why}"]
    lines += ["", "protocol"]
    lines += [f"  {name}: {value}" for name, value in report["protocol"].items() if name != "versions"]
    return "\n".join(lines)
