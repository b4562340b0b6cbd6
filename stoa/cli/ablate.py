"""Runs that differ in a few values, as a plan lists them, and tables of their results. Call again to go on."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from jsonargparse import ArgumentParser, Namespace
from jsonargparse.typing import PositiveInt

from stoa.arguments import Command
from stoa.arguments.needs import ABLATION
from stoa.shipped import found

COMMAND = Command(ABLATION)
EXAMPLE = "stoa ablate recipes/study/plan.yaml --workers 2"


def add_arguments(parser: ArgumentParser) -> None:
    parser.add_argument("plan", type=str, help="YAML file, see recipes/ablation")
    parser.add_argument("--only", type=str, default="*", help="run the cells of this pattern alone: 'pretrain-*-0'")
    parser.add_argument("--skip", type=str, default="", help="leave out the cells of this pattern: 'captioning-*'")
    parser.add_argument(
        "--workers", type=PositiveInt, default=1, help="cells run at once: small models leave cores idle, GPUs do not"
    )
    parser.add_argument("--list", type=bool, default=False, help="only say what is finished and what would be run")
    parser.add_argument("--tables", type=bool, default=False, help="only print the tables of what is finished")
    parser.add_argument(
        "--results", type=str, default=None, help="with --tables: the folder of the results, if it is not the plan's"
    )


def run(args: Namespace) -> None:
    from stoa.tasks.ablation.plan import read_plan
    from stoa.tasks.ablation.run import run_plan
    from stoa.tasks.ablation.tables import format_tables, tabulate

    plan = read_plan(Path(found(args.plan)))
    if args.results is not None:
        if not args.tables:
            raise ValueError(f"--results {args.results} is for --tables; what is run goes where the plan says")
        plan = replace(plan, out=Path(args.results))
    if args.list:
        for cell in plan.cells:
            print(f"{'finished' if plan.result(cell).is_file() else 'open':10}{cell.name}")
            for command in cell.commands:
                print(f"{'':12}{command}")
        return
    if not args.tables:
        run_plan(plan, only=args.only, skip=args.skip, workers=args.workers, say=lambda line: print(line, flush=True))
    print(format_tables(tabulate(plan)))
