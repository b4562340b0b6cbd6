"""What the results of a folder come to: a table, and a report to keep."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

_KEPT_OF_A_FAILURE = 4000  # characters of its output


def read_results(out: Path) -> list[dict[str, Any]]:
    """Of the steps that have ended, by part.

    Raises:
        ValueError: there are none, or they are of two GPUs.
    """
    results = [json.loads(path.read_text()) for path in out.glob("[1-9]-*.json")]
    if not results:
        raise ValueError(f"--out {out} holds no results; run the parts first: make gpu-check GPU_OUT={out}")
    gpus = sorted({result["gpu"] for result in results})
    if len(gpus) > 1:
        raise ValueError(f"--out {out} holds results of {' and of '.join(gpus)}; give each GPU a folder of its own")
    return sorted(results, key=lambda result: (result["part"], result["time"]))


def table(results: Sequence[dict[str, Any]]) -> str:
    last = results[-1]
    lines = [f"{last['gpu']}, torch {last['torch']}"]
    lines += [f"{r['part']} {r['name']:38} {r['outcome']:8} {r['seconds']:6.1f} s  {r['note']}" for r in results]
    return "\n".join(lines)


def write_report(results: Sequence[dict[str, Any]], folder: Path) -> Path:
    """Write ``<gpu>-<date>.json``; of what steps printed, only that of failures is kept."""
    last = max(result["time"] for result in results)
    gpu = re.sub(r"[^a-z0-9]+", "-", results[0]["gpu"].lower()).strip("-")
    path = folder / f"{gpu}-{last[:10]}.json"
    facts = {name: results[-1][name] for name in ("gpu", "torch", "cuda")}
    steps = [
        {name: value for name, value in result.items() if name not in (*facts, "output")}
        | ({"output": result["output"][-_KEPT_OF_A_FAILURE:]} if result["outcome"] == "failed" else {})
        for result in results
    ]
    folder.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({**facts, "date": last[:10], "steps": steps}, indent=2) + "\n")
    return path
