"""A trained model on a task: retrieval, captions, answers to questions, or a choice among options.

Numbers come with chance or an untrained model beside them, and with a card that says what they were measured on.
"""

from __future__ import annotations

import json
from dataclasses import fields
from pathlib import Path

from jsonargparse import ArgumentParser, Namespace

from stoa.cli._model import open_model
from stoa.tasks.evaluation import EvaluationConfig, Task, evaluate, score_answer_file, score_caption_file
from stoa.tasks.published import comparison, published_of
from stoa.tasks.report import format_report, read_predictions, write_predictions, write_report, write_scores


def add_arguments(parser: ArgumentParser) -> None:
    parser.add_argument(
        "--run",
        type=str | None,
        default=None,
        help="a run, one of its checkpoints, or an export",
    )
    parser.add_argument("--task", type=Task | None, default=None, help="default: what the run was fine-tuned for")
    parser.add_argument("--compare", type=str | None, default=None, help="published numbers beside: msrvtt, msvd")
    parser.add_argument(
        "--predictions", type=str | None, default=None, help="score this .jsonl of id and prediction; needs no --run"
    )
    parser.add_argument(
        "--out",
        type=str | None,
        default=None,
        help="JSON report; default: <task>-<split>.json beside the checkpoints (a control: <task>-<split>-<view>.json)",
    )
    parser.add_class_arguments(EvaluationConfig, None)


def run(args: Namespace) -> None:
    config = EvaluationConfig(**{field.name: args[field.name] for field in fields(EvaluationConfig)})
    if args.predictions is not None:
        _score(args, config)
        return
    if args.run is None:
        raise ValueError("--run is missing; name a run's output_dir, or pass --predictions FILE to score")
    trained, abilities, facts, folder = open_model(args.run)
    task: Task = args.task or facts.get("task") or "retrieval"
    published = None if args.compare is None else published_of(task, args.compare)
    result = evaluate(task, trained, abilities, config)
    out = Path(args.out) if args.out else _free_path(folder, task, config, result.report["protocol"]["split sha256"])
    write_report(result.report, out)
    print(format_report(result.report))
    print(f"written to {out}")
    if result.predictions is not None:
        beside = out.with_suffix(".predictions.jsonl")
        write_predictions(result.predictions, beside)
        print(f"predictions in {beside}")
    if result.scores is not None:
        beside = out.with_suffix(".scores.npz")
        write_scores(*result.scores, beside)
        print(f"similarities in {beside}")
    if published is not None:
        print("\n".join(comparison(args.compare, published, json.loads(out.read_text(encoding="utf-8")))))


def _free_path(folder: Path, task: Task, config: EvaluationConfig, clips_sha256: str) -> Path:
    """Where no report on other clips, or on all that is to be seen of them, is overwritten."""
    name = f"{task}-{config.split}" + ("" if config.view == "whole" else f"-{config.view}")
    path = folder / f"{name}.json"
    try:
        there = json.loads(path.read_text(encoding="utf-8"))["protocol"]["split sha256"]
    except FileNotFoundError:
        return path
    except (ValueError, KeyError, TypeError):  # not a report
        there = None
    return path if there == clips_sha256 else folder / f"{name}-{clips_sha256[:8]}.json"


def _score(args: Namespace, config: EvaluationConfig) -> None:
    scorers = {"captioning": score_caption_file, "answering": score_answer_file, "multiple_choice": score_answer_file}
    if args.task not in scorers:
        raise ValueError(f"--task is {args.task}; a file of predictions is scored for one of {', '.join(scorers)}")
    report = scorers[args.task](read_predictions(Path(args.predictions)), config)
    if args.out:
        write_report(report, Path(args.out))
    print(format_report(report))
