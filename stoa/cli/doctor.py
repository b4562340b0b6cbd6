"""Is this machine fit for training? Under a launcher: are all of them, and are they alike? Ends with status 0 or 1."""

from __future__ import annotations

import json
from pathlib import Path

from jsonargparse import ArgumentParser, Namespace

from stoa.doctor.examination import examine
from stoa.doctor.findings import as_json, lines


def add_arguments(parser: ArgumentParser) -> None:
    parser.add_argument("--folder", type=Path, default=Path("runs"), help="that a run would write to")
    parser.add_argument("--manifest", type=Path | None, default=None, help="data that all machines have to have alike")
    parser.add_argument("--spacy", type=str | None, default="en_core_web_sm", help="pipeline of stoa prepare, or null")
    parser.add_argument("--port", type=int, default=29500, help="that the processes of a run would meet at")
    parser.add_argument("--json", action="store_true", help="for machines")


def run(args: Namespace) -> int:
    findings = examine(args.folder, manifest=args.manifest, spacy=args.spacy, port=args.port)
    if findings is None:  # the first process tells for all
        return 0
    told = as_json(findings)
    print(json.dumps(told, indent=2) if args.json else "\n".join(lines(findings)), flush=True)
    return 0 if told["good"] else 1
