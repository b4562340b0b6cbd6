"""JSON of a checkpoint: whoever made it, its values are of the types that they are read as."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from stoa.files import read_small
from stoa.shapes import AT_LEAST_1, COUNT, NUMBER, NUMBERS, OBJECT, TEXT, Shape, Value, many, problem_in

_IDS = many("token ids", COUNT)
_BLOCKS = {f"{name}?": OBJECT for name in ("fp16", "bf16", "torch_autocast", "zero_optimization")}
_FACTS: Shape = {
    "step": COUNT,
    "config": {
        "model": {f"{name}?": OBJECT for name in ("backbone", "objects", "actions", "graph", "fusion")},
        "training": {"optim": OBJECT},
    },
    "architecture": OBJECT,
    "deepspeed_config": {
        "train_micro_batch_size_per_gpu": AT_LEAST_1,
        "gradient_accumulation_steps?": AT_LEAST_1,
        **_BLOCKS,
    },
    "versions": OBJECT,
    "commit": TEXT,
    "hardware?": OBJECT,
    "sampler?": {
        **dict.fromkeys(("epoch", "taken", "seed"), COUNT),
        **dict.fromkeys(("num_samples", "together", "world", "global_batch"), AT_LEAST_1),
        "fingerprint": TEXT,
    },
    "used_token_ids?": Value("null, or a list of token ids", lambda ids: ids is None or _IDS.fits(ids)),
    "losses?": many("names", TEXT),
    "excluded?": many("objects", OBJECT),
    "validation?": NUMBER,
    "validation metric?": TEXT,
}


def read_facts(path: Path) -> dict[str, Any]:
    """Of a ``run.json``. Raises as :func:`read_counts` does."""
    return _read(path, _FACTS)


def read_counts(path: Path, names: Sequence[str]) -> dict[str, Any]:
    """Of a ``states/engine.json``: numbers of these names, and the loss scale.

    Raises:
        ValueError: it is not JSON, or a value is missing or of another type; names it.
        OSError: it cannot be read.
    """
    return _read(path, {"files": AT_LEAST_1, "loss_scale": NUMBERS, **dict.fromkeys(names, COUNT)})


def _read(path: Path, shape: Shape) -> dict[str, Any]:
    try:
        facts = json.loads(read_small(path))
    except RecursionError:
        raise ValueError(f"{path.name} is no JSON: nested too deeply") from None
    except ValueError as error:
        raise ValueError(f"{path.name} is no JSON: {' '.join(str(error).split())[:200]}") from None
    problem = problem_in(facts, shape, "")
    if problem is not None:
        raise ValueError(f"{path.name}: {problem}, as a training writes it")
    return facts
