"""Is this machine fit for training? Under a launcher: are all of them, and are they alike? Or, of a run that
hung: which rank missed which collective? Ends with status 0 or 1."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from jsonargparse import ArgumentParser, Namespace

from stoa.prepare.pipelines import PIPELINE

EXAMPLE = "stoa doctor --manifest data/manifest.jsonl"


def add_arguments(parser: ArgumentParser) -> None:
    parser.add_argument("--folder", type=Path, default=Path("runs"), help="that a run would write to")
    parser.add_argument("--manifest", type=Path | None, default=None, help="data that all machines have to have alike")
    parser.add_argument("--spacy", type=str | None, default=PIPELINE, help="pipeline of stoa prepare, or null")
    parser.add_argument("--port", type=int, default=29500, help="that the processes of a run would meet at")
    parser.add_argument("--hang", type=Path | None, default=None, help="dumps of NCCL's flight recorder, of all ranks")
    parser.add_argument("--json", action="store_true", help="for machines")


def run(args: Namespace) -> int:
    from stoa.doctor.examination import examine
    from stoa.doctor.findings import as_json, lines
    from stoa.doctor.hang import as_findings, hang
    from stoa.doctor.hang import as_json as hang_as_json

    if args.hang is not None:
        verdicts = hang(args.hang)
        return _tell(hang_as_json(verdicts), lines(as_findings(verdicts)), in_json=args.json)
    findings = examine(args.folder, manifest=args.manifest, spacy=args.spacy, port=args.port)
    if findings is None:  # the first process tells for all
        return 0
    return _tell(as_json(findings), lines(findings), in_json=args.json)


def _tell(told: dict[str, Any], table: list[str], *, in_json: bool) -> int:
    print(json.dumps(told, indent=2) if in_json else "\n".join(table), flush=True)
    return 0 if told["good"] else 1
