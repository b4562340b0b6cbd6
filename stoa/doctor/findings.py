"""What a look at a machine has found."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

from stoa.fields import printable

Verdict = Literal["good", "missing", "bad"]


class Finding(NamedTuple):
    """Attributes:
    name: of what was looked at.
    verdict: ``good``; ``missing``, which only some commands need; or ``bad``, with which training fails or crawls.
    said: what was found.
    remedy: what to do about it.
    """

    name: str
    verdict: Verdict
    said: str
    remedy: str = ""


def lines(findings: Sequence[Finding]) -> list[str]:
    """A table for people."""
    width = max(len(one.name) for one in findings)
    marks = {"good": "ok", "missing": "--", "bad": "BAD"}
    return [
        printable(f"{marks[one.verdict]:>3}  {one.name:{width}}  {one.said}{f'; {one.remedy}' if one.remedy else ''}")
        for one in findings
    ]


def as_json(findings: Sequence[Finding]) -> dict[str, Any]:
    return {"good": all(one.verdict != "bad" for one in findings), "findings": [one._asdict() for one in findings]}
