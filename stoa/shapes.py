"""Of which types the values of a JSON object are, where it may be of anybody's making."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

from stoa.fields import show


class Value(NamedTuple):
    """Of a kind: a noun for messages, and whether one is of it."""

    noun: str
    fits: Callable[[Any], bool]


def whole(least: int) -> Value:
    return Value(f"a whole number, {least} or more", lambda value: type(value) is int and least <= value < 1 << 63)


def many(noun: str, one: Value) -> Value:
    return Value(f"a list of {noun}", lambda value: isinstance(value, list) and all(map(one.fits, value)))


COUNT, AT_LEAST_1 = whole(0), whole(1)
TEXT = Value("a text", lambda value: isinstance(value, str))
NUMBER = Value("a finite number", lambda value: type(value) in (int, float) and _is_finite(value))
OBJECT = Value("an object", lambda value: isinstance(value, dict))
NUMBERS = Value("an object of numbers", lambda value: isinstance(value, dict) and all(map(NUMBER.fits, value.values())))
Shape = dict[str, Any]
"""By key the value or, inside, another of these; what ends in a question mark may be missing."""


def _is_finite(value: float) -> bool:
    return abs(value) < 1 << 1000 if isinstance(value, int) else math.isfinite(value)


def problem_in(value: Any, shape: Value | Shape, name: str) -> str | None:
    """The first value that does not fit."""
    if isinstance(shape, Value):
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
        if (problem := problem_in(value[plain], inner, dotted)) is not None:
            return problem
    return None
