"""What ``stoa evaluate`` does once its options are known."""

from __future__ import annotations

import json
from contextlib import nullcontext
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

from jsonargparse import ArgumentParser, Namespace

from stoa.arguments.needs import EVALUATION_OF_TASK
from stoa.arguments.parse import require_used
from stoa.cli.evaluate import add_arguments
from stoa.data.loader import opening_lines
from stoa.locks import only_writer_of
from stoa.names import file_name
from stoa.tasks.config import EvaluationConfig, Task
from stoa.tasks.evaluation import coverage, evaluate, open_split, score_file
from stoa.tasks.opened import open_model
from stoa.tasks.protocol import data_sha256
from stoa.tasks.published import comparison, published_of, require_comparable
from stoa.tasks.report import format_report, read_predictions, write_predictions, write_report, write_scores
from stoa.tasks.trained import resized


def evaluate_as_asked(args: Namespace) -> None:
    """Evaluate, or score predictions."""
    config = EvaluationConfig(**{field.name: args[field.name] for field in fields(EvaluationConfig)})
    if args.predictions is not None:
        _score(args, config)
        return
    if args.run is None:
        raise ValueError("--run is missing; name a run's output_dir, or pass --predictions FILE to score")
    trained, abilities, facts, folder = open_model(args.run)
    trained = resized(trained, num_frames=args.num_frames, max_tokens=args.max_tokens)
    task: Task = args.task or facts.get("task") or "retrieval"
    _require_used(args, task)
    _require_comparable(task, args.compare, config)
    read: dict[str, Any] = {"decoder": config.decoder, "max_tokens": trained.model.config.max_tokens}
    read["max_boxes"] = trained.model.config.num_boxes
    sizes = {"frames": args.num_frames, "tokens": args.max_tokens}
    resized_to = "".join(f"-{size}{what}" for what, size in sizes.items() if size is not None)
    name = f"{task}-{file_name(config.split)}" + ("" if config.view == "whole" else f"-{config.view}") + resized_to
    wanted = Path(args.out) if args.out else folder / f"{name}.json"
    with only_writer_of(wanted, "--out"):
        clips = open_split(config.manifest, config.split)
        for line in opening_lines(clips, config.manifest, config.split, "evaluating", **read):
            print(line, flush=True)
        result = evaluate(task, trained, abilities, config, said_to_be=args.compare)
        print(format_report(result.report), flush=True)  # a disk that is full must not cost it
        refused = _compare(task, args.compare, result.report)
        out = wanted if args.out else _free_path(wanted, data_sha256(result.report["protocol"]))
        write_report(result.report, out)
        print(f"written to {out}")
        if result.predictions is not None:
            beside = out.with_suffix(".predictions.jsonl")
            write_predictions(result.predictions, beside)
            print(f"predictions in {beside}")
        if result.scores is not None:
            beside = out.with_suffix(".scores.npz")
            write_scores(*result.scores, beside)
            print(f"similarities in {beside}")
    if refused is not None:
        raise refused


def _require_comparable(task: Task, compare: str | None, config: EvaluationConfig) -> None:
    """What cannot be compared is told before an hour's work."""
    if compare is not None:
        published_of(task, compare)
        require_comparable(compare, coverage(task, config, said_to_be=compare))


def _compare(task: Task, compare: str | None, report: dict[str, Any]) -> ValueError | None:
    """Print ours beside the published numbers; why that cannot be is for after the report has been written."""
    if compare is None:
        return None
    try:
        print("\n".join(comparison(task, compare, report)), flush=True)
    except ValueError as error:
        return error
    return None


def _require_used(args: Namespace, task: Task) -> None:
    """What a task has no use for is refused once the task is known, which may be that of the run."""
    parser = ArgumentParser(exit_on_error=False)
    add_arguments(parser)
    given = Namespace(**{**vars(args), "generation": Namespace(**asdict(args.generation))})
    require_used({**vars(given.as_flat()), "task": task}, vars(parser.get_defaults().as_flat()), EVALUATION_OF_TASK)


def _free_path(path: Path, data: str) -> Path:
    """Where no report on other data is overwritten."""
    try:
        there = data_sha256(json.loads(path.read_text(encoding="utf-8"))["protocol"])
    except FileNotFoundError:
        return path
    except (ValueError, KeyError, TypeError, AttributeError):  # not a report
        there = None
    return path if there == data else path.with_name(f"{path.stem}-{data[:8]}.json")


def _score(args: Namespace, config: EvaluationConfig) -> None:
    if args.task is None:
        raise ValueError("--task is missing; say what the predictions are of")
    _require_used(args, args.task)
    _require_comparable(args.task, args.compare, config)
    with only_writer_of(Path(args.out), "--out") if args.out else nullcontext():
        report = score_file(args.task, read_predictions(Path(args.predictions)), config, said_to_be=args.compare)
        print(format_report(report), flush=True)
        refused = _compare(args.task, args.compare, report)
        if args.out:
            write_report(report, Path(args.out))
            print(f"written to {args.out}")
    if refused is not None:
        raise refused
