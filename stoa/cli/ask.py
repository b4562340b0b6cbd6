"""Answer a question about a video: by the best of some options, or in words."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from jsonargparse import ArgumentParser, Namespace

from stoa.cli._model import add_model, add_part, clip_of, open_named

EXAMPLE = 'stoa ask clip.mp4 "what moves?" --options [square,circle]'


def add_arguments(parser: ArgumentParser) -> None:
    parser.add_argument("video", type=Path, help="a file")
    parser.add_argument("question", type=str, help="about it")
    parser.add_argument("--options", type=list[str], default=[], help="answers to choose from")
    add_model(parser)
    add_part(parser)
    parser.add_argument("--json", action="store_true", help="for machines")


def run(args: Namespace) -> None:
    if not args.question.strip():
        raise ValueError("the question is empty; ask one")
    model = open_named(args)
    answer = model.answer(clip_of(args, args.video), args.question, options=args.options)
    if not args.options and not model.knows_questions:
        print(
            f"{args.model} was not trained on questions and describes the clip; give it --options to choose from, or "
            "fine-tune a model (stoa finetune --help)",
            file=sys.stderr,
        )
    print(json.dumps({"video": str(args.video), "question": args.question, "answer": answer}) if args.json else answer)
