"""A trained model on a task: retrieval, captions, answers to questions, or a choice among options.

Numbers come with chance or an untrained model beside them, and with a card that says what they were measured on.
"""

from __future__ import annotations

from jsonargparse import ArgumentParser, Namespace
from jsonargparse.typing import PositiveInt

from stoa.arguments import Command
from stoa.arguments.needs import EVALUATION
from stoa.tasks.config import EvaluationConfig, Task
from stoa.tasks.published import known_data_sets

COMMAND = Command(EVALUATION)
EXAMPLE = "stoa evaluate --run runs/demo --manifest data/demo/manifest.jsonl"


def add_arguments(parser: ArgumentParser) -> None:
    parser.add_argument("--run", type=str | None, default=None, help="a run, one of its checkpoints, or an export")
    parser.add_argument("--task", type=Task | None, default=None, help="default: what the run was fine-tuned for")
    parser.add_argument(
        "--compare",
        type=str | None,
        default=None,
        help=f"the published test set this is of, to print published figures beside ({known_data_sets()})",
    )
    parser.add_argument(
        "--predictions", type=str | None, default=None, help="score this .jsonl of id and prediction; needs no --run"
    )
    parser.add_argument(
        "--out",
        type=str | None,
        default=None,
        help="JSON report; default: <task>-<split>.json beside the checkpoints (a control: <task>-<split>-<view>.json)",
    )
    parser.add_argument(
        "--num_frames", type=PositiveInt | None, default=None, help="frames of a clip; default: as trained"
    )
    parser.add_argument("--max_tokens", type=PositiveInt | None, default=None, help="text length; default: as trained")
    parser.add_class_arguments(EvaluationConfig, None)


def run(args: Namespace) -> None:
    from stoa.cli._evaluation import evaluate_as_asked

    evaluate_as_asked(args)
