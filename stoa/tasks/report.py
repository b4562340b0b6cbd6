"""Reports as files and as tables for a terminal."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, get_args

import numpy as np

from stoa.fields import name_of, show
from stoa.files import replacing, write_whole
from stoa.manifest import jsonl_rows
from stoa.tasks.config import Task
from stoa.tasks.coverage import Coverage
from stoa.tasks.gallery import Gallery
from stoa.tasks.metrics.ranking import RankMetrics
from stoa.tasks.retrieval import GALLERY_SIZE, RetrievalScores
from stoa.text_files import nfc

_DIRECTIONS = ("text-to-video", "video-to-text")


def write_report(report: Mapping[str, Any], path: Path) -> None:
    """Write the report as JSON, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, report_json(report) + "\n")


def report_json(report: Mapping[str, Any]) -> str:
    return json.dumps(report, indent=2, default=lambda metrics: metrics.to_dict())


def write_predictions(predictions: Mapping[str, str], path: Path) -> None:
    """Write what a model said as JSONL with ``id`` and ``prediction``."""
    lines = [json.dumps({"id": id, "prediction": said}, ensure_ascii=False) for id, said in predictions.items()]
    write_whole(path, "\n".join(lines) + "\n")


def read_predictions(path: Path) -> dict[str, str]:
    """The reverse of :func:`write_predictions`.

    Raises:
        ValueError: the file is missing, a row is malformed, or an id repeats; the message names file and row.
    """
    if not path.is_file():
        raise ValueError(f"--predictions {path} does not exist; pass a .jsonl file with 'id' and 'prediction'")
    out: dict[str, str] = {}
    for where, row in jsonl_rows(path):
        if missing := sorted({"id", "prediction"} - row.keys()):
            raise ValueError(f"{where}: {missing[0]!r} is missing; expected an object with 'id' and 'prediction'")
        id, said = name_of(row["id"], "id", where), row["prediction"]
        if not isinstance(said, str):
            raise ValueError(f"{where}: 'prediction' is {show(said)}; expected a text")
        if id in out:
            raise ValueError(f"{where}: id {id!r} stands there twice")
        out[id] = nfc(said)
    return out


def write_scores(scores: RetrievalScores, gallery: Gallery, path: Path) -> None:
    """Write the similarity matrices: per method and direction an array, queries x items, with the ids of the videos and
    the video of each caption."""
    arrays: dict[str, Any] = {
        f"{direction} {method}": of_method.cpu().numpy()
        for direction, methods in zip(_DIRECTIONS, scores, strict=True)
        for method, of_method in methods.items()
    }
    with replacing(path) as temporary, open(temporary, "wb") as file:
        np.savez_compressed(
            file, ids=np.array(gallery.ids), video_of_text=gallery.video_of_text_Q.cpu().numpy(), **arrays
        )


def format_report(report: Mapping[str, Any]) -> str:
    """The report as tables for a terminal."""
    lines = [_headline(report), ""]
    if "retrieval" in report:
        lines += _retrieval_lines(report)
    if "captioning" in report:
        scores = report["captioning"].to_dict()
        names = [name for name in scores if name != "num_clips"]
        lines += ["".join(f"{name:>9}" for name in names)]
        lines += ["".join(f"{100 * scores[name]:9.1f}" for name in names), f"(x 100, {scores['num_clips']} clips)"]
    for task in ("answering", "multiple_choice"):
        for method, accuracy in report.get(task, {}).items():
            lines += [f"{f'{method}, accuracy (%)':32}{accuracy.accuracy:8.1f}{accuracy.num_questions:9,d} questions"]
            lines += [f"  {kind:30}{right:8.1f}{count:9,d}" for kind, (right, count) in accuracy.by_type.items()]
    if "multiple_choice" in report and "chance" in report:
        lines += [f"{'chance':32}{report['chance']:8.1f}"]
    if report["unreadable"]:
        clip, why = next(iter(report["unreadable"].items()))
        lines += ["", f"{len(report['unreadable'])} videos could not be read and are left out, the first {clip}: {why}"]
    if "protocol" in report:
        lines += ["", "protocol"]
        lines += [f"  {name}: {value}" for name, value in report["protocol"].items() if name != "versions"]
    return "\n".join(lines)


def _headline(report: Mapping[str, Any]) -> str:
    """What the numbers are, and of what."""
    task = next(task for task in get_args(Task) if task in report)
    of: Coverage = report["coverage"]
    title = f"{task.replace('_', ' ')} on {of.split if of.data_set is None else f'{of.data_set}, {of.split}'}"
    hard = "" if not report["partial"] or of.partial else f"; hard sets: {report['protocol']['videos of hard sets']}"
    return f"{title}{', PARTIAL' if report['partial'] else ''}: {of}{hard}"


def _retrieval_lines(report: Mapping[str, Any]) -> list[str]:
    lines = [f"{'':32}{'R@1':>8}{'R@5':>8}{'R@10':>8}{'R@50':>8}{'MdR':>8}{'MnR':>8}"]

    def row(name: str, metrics: RankMetrics) -> None:
        values = (metrics.r1, metrics.r5, metrics.r10, metrics.r50, metrics.median_rank, metrics.mean_rank)
        lines.append(f"{name:32}" + "".join(f"{value:8.1f}" for value in values))

    for direction in _DIRECTIONS:
        lines.append(direction)
        for model, methods in report["retrieval"].items():
            for method, metrics in methods.items():
                row(f"  {method}" if model == "trained" else f"  {method}, {model}", metrics[direction])
        row("  chance", report["chance"][direction])
    if report["hard_sets"]:
        title = f"hard sets, accuracy of {GALLERY_SIZE} (%)"
        lines += ["", f"{title:32}{'vtm':>8}{'plm':>8}{'itc':>8}{'untrained':>11}{'chance':>8}"]
        for kind, result in report["hard_sets"].items():
            trained, fresh = result["trained"], result.get("untrained")
            beside = f"{fresh['vtm']:11.1f}" if fresh else f"{'-':>11}"
            scores = "".join(f"{trained[method]:8.1f}" for method in ("vtm", "plm", "itc"))
            lines.append(f"  {kind:30}{scores}{beside}{100 / GALLERY_SIZE:8.1f}")
    if report["matches"].get("trained"):
        title = "trajectories matched to nouns (%)"
        lines += ["", f"{title:32}{'right':>8}{'untrained':>11}{'chance':>8}{'matches':>9}"]
        for name, result in report["matches"]["trained"].items():
            fresh = report["matches"].get("untrained", {}).get(name)
            title = {"distinct": "objects of distinct classes", "twins": "two objects of one class"}[name]
            beside = f"{fresh.accuracy:11.1f}" if fresh else f"{'-':>11}"
            lines.append(f"  {title:30}{result.accuracy:8.1f}{beside}{result.chance:8.1f}{result.matches:9d}")
    return lines
