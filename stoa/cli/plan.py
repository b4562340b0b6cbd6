"""Does a recipe fit on GPUs, how long does it take, and what is the cheapest configuration? Modelled, without a GPU."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

from jsonargparse import ArgumentParser, Namespace

from stoa.config import COMMAND, add_recipe_arguments, run_of

__all__ = ["COMMAND", "EXAMPLE", "add_arguments", "run"]

EXAMPLE = "stoa plan --recipe recipes/stoa.yaml --gpu V100-32 --nodes 16"


def add_arguments(parser: ArgumentParser) -> None:
    add_recipe_arguments(parser)
    parser.add_argument("--gpu", type=str, required=True, help="V100-16, V100-32, A100-40, A100-80, H100 or H200")
    parser.add_argument("--nodes", type=int, default=1, help="machines")
    parser.add_argument("--gpus_per_node", type=int, default=8, help="GPUs of a machine")
    parser.add_argument("--network_gbit", type=float, default=100.0, help="Gbit/s that a machine sends and receives")
    parser.add_argument("--precision", type=str | None, default=None, help="fp32, fp16 or bf16; default: the GPU's")
    parser.add_argument("--micro_batch", type=int | None, default=None, help="clips of a GPU; default: the cheapest")
    parser.add_argument("--global_batch", type=int | None, default=None, help="clips of an optimiser step, of all GPUs")
    parser.add_argument("--clips", type=int | None, default=None, help="clips of the data set, for days an epoch")
    parser.add_argument("--scaling", type=int | None, default=None, help="GPUs up to which to tell how it scales")
    parser.add_argument("--write", type=Path | None, default=None, help="DeepSpeed's JSON to write")
    parser.add_argument("--json", action="store_true", help="print every choice as JSON, in bytes and seconds")


def run(args: Namespace) -> None:
    from stoa.planning.request import Request, plan

    request = Request(**{field.name: args[field.name] for field in dataclasses.fields(Request)})
    found = plan(run_of(args), request, write=args.write)
    print(json.dumps(found.as_json(), indent=2) if args.json else "\n".join(found.lines()))
    if args.write is not None and not args.json:
        print(f"  written to {args.write}")
