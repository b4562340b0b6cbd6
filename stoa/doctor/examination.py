"""One machine, or all of a run."""

from __future__ import annotations

import os
from pathlib import Path

import torch.distributed as dist

from stoa.doctor.findings import Finding
from stoa.doctor.machine import look
from stoa.doctor.ranks import compare
from stoa.objectives.gather import of_all_ranks, rank
from stoa.training import engine as ds


def examine(folder: Path, *, manifest: Path | None, spacy: str | None, port: int) -> list[Finding] | None:
    """All processes that a launcher has started, or this one: what was found, on the first of them.

    Of other machines only what is not good is among it.

    Raises:
        ValueError: the processes do not find each other.
    """
    if os.environ.get("WORLD_SIZE", "1") == "1":
        return look(folder, spacy=spacy, port=port)
    device = ds.init_distributed()
    own = look(folder, spacy=spacy, port=None)
    together = compare(device, manifest)
    others = of_all_ranks(own if os.environ["LOCAL_RANK"] == "0" else [])
    is_first = rank() == 0
    dist.barrier()
    dist.destroy_process_group()
    if not is_first:
        return None
    worse = [
        one._replace(name=f"{one.name}, rank {number}")
        for number, findings in enumerate(others)
        if number
        for one in findings
        if one.verdict == "bad"
    ]
    return [*own, *worse, *together]
