"""JSON of a checkpoint: whoever made it, its values are of the types that they are read as."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from stoa.fields import show


class _Value(NamedTuple):
    noun: str
    fits: Callable[[Any], bool]


def _whole(least: int) -> _Value:
    return _Value(f"a whole number, {least} or more", lambda value: type(value) is int and least <= value < 1 << 63)


def _many(noun: str, one: _Value) -> _Value:
    return _Value(f"a list of {noun}", lambda value: isinstance(value, list) and all(map(one.fits, value)))


_COUNT, _AT_LEAST_1 = _whole(0), _whole(1)
_TEXT = _Value("a text", lambda value: isinstance(value, str))
_NUMBER = _Value("a number", lambda value: type(value) in (int, float) and not math.isnan(value))
_OBJECT = _Value("an object", lambda value: isinstance(value, dict))
_NUMBERS = _Value(
    "an object of numbers", lambda value: isinstance(value, dict) and all(map(_NUMBER.fits, value.values()))
)
_Shape = dict[str, Any]
"""By key the value or, inside, another of these; what ends in a question mark may be missing."""

_IDS = _many("token ids", _COUNT)
_BLOCKS = {f"{name}?": _OBJECT for name in ("fp16", "bf16", "torch_autocast", "zero_optimization")}
_FACTS: _Shape = {
    "step": _COUNT,
    "config": {
        "model": {f"{name}?": _OBJECT for name in ("backbone", "objects", "actions", "graph", "fusion")},
        "training": {"optim": _OBJECT},
    },
    "architecture": _OBJECT,
    "deepspeed_config": {
        "train_micro_batch_size_per_gpu": _AT_LEAST_1,
        "gradient_accumulation_steps?": _AT_LEAST_1,
        **_BLOCKS,
    },
    "versions": _OBJECT,
    "commit": _TEXT,
    "sampler?": {
        **dict.fromkeys(("epoch", "taken", "seed"), _COUNT),
        **dict.fromkeys(("num_samples", "together", "world", "global_batch"), _AT_LEAST_1),
        "fingerprint": _TEXT,
    },
    "used_token_ids?": _Value("null, or a list of token ids", lambda ids: ids is None or _IDS.fits(ids)),
    "losses?": _many("names", _TEXT),
    "excluded?": _many("objects", _OBJECT),
    "validation?": _NUMBER,
    "validation metric?": _TEXT,
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
    return _read(path, {"files": _AT_LEAST_1, "loss_scale": _NUMBERS, **dict.fromkeys(names, _COUNT)})


def _read(path: Path, shape: _Shape) -> dict[str, Any]:
    try:
        facts = json.loads(path.read_bytes())
    except RecursionError:
        raise ValueError(f"{path.name} is no JSON: nested too deeply") from None
    except ValueError as error:
        raise ValueError(f"{path.name} is no JSON: {' '.join(str(error).split())[:200]}") from None
    problem = _problem(facts, shape, "")
    if problem is not None:
        raise ValueError(f"{path.name}: {problem}, as a training writes it")
    return facts


def _problem(value: Any, shape: _Value | _Shape, name: str) -> str | None:
    """The first value that does not fit."""
    if isinstance(shape, _Value):
        return None if shape.fits(value) else f"{name} is {show(value)}, not {shape.noun}"
    if not isinstance(value, dict):
        return f"{name or 'it'} is {show(value)}, not an object"
    for key, inner in shape.items():
        plain = key.removesuffix("?")
        dotted = f"{name}.{plain}" if name else plain
        if plain not in value:
            if plain == key:
                return f"{dotted} is missing"
            continue
        if (problem := _problem(value[plain], inner, dotted)) is not None:
            return problem
    return None
