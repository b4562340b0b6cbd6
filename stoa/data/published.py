"""How much of each published data set there is: by the name that ``stoa prepare --dataset`` has for it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Count:
    """How much of a split was published; None where the publication does not say."""

    clips: int | None = None
    captions: int | None = None
    questions: int | None = None


_1K_A = Count(1000, 1000)

COUNTS: Mapping[str, Mapping[str, Count]] = {
    "msrvtt": {"train": Count(6513, 130_260), "val": Count(497, 9940), "test": Count(2990, 59_800)},
    "msrvtt-1k-a": {"train": Count(9000, 180_000), "test": _1K_A},
    "msrvtt-7k": {"train": Count(7010, 140_200), "test": _1K_A},
    "msvd": {"train": Count(1200, 48_774), "val": Count(100, 4290), "test": Count(670, 27_763)},
    "lsmdc": {"train": Count(captions=101_079), "val": Count(captions=7408), "test": Count(1000, 1000)},
    "didemo": {"train": Count(8395, 8395), "val": Count(1065, 1065), "test": Count(1004, 1004)},
    "msrvtt-qa": {"train": Count(questions=158_581), "val": Count(questions=12_278), "test": Count(questions=72_821)},
    "msvd-qa": {"train": Count(questions=30_933), "val": Count(questions=6415), "test": Count(questions=13_157)},
    "msrvtt-mc": {"test": Count(questions=2990)},
}
"""By data set and split. DiDeMo's captions are paragraphs, one a clip."""

SAME_TEST_SET: Mapping[str, str] = {"msrvtt-7k": "msrvtt-1k-a"}
"""Data sets whose test split is that of another one."""

_MSRVTT_IDS = "916e9b2dd9a4518131b76a1e9b4f47fd12847f50356ebd8413bcd555abe2bca8"
TEST_IDS_SHA256: Mapping[str, str] = {
    "msrvtt": _MSRVTT_IDS,
    "msrvtt-1k-a": "49a09fb68f7ec52b3b9bbb7e856ffbd3f00233976ed435fded658309c3cd491a",
    "msvd": "8d2c6c42af984fd02de95caffc7c6e4fafadeed81b5d99c8aa1584b12367a85c",
    "msrvtt-qa": _MSRVTT_IDS,
    "msvd-qa": "9af3b2eb48d7dd1366b6b343c2d2a07f2fdf3d79303fed695b1d191b0a66da2f",
}
"""Of the ids of the published test clips, of questions those that are asked about: see
:func:`stoa.tasks.coverage.ids_sha256`. Of the other sets no list was at hand."""
