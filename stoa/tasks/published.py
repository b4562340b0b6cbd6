"""Numbers that the authors of STOA-VLP have published (AAAI 2023), to print beside ours. They are never ours."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, NamedTuple

from stoa.tasks.evaluation import Task
from stoa.tasks.report import report_json


class Published(NamedTuple):
    """Numbers of a data set and task: per name the published value and where ours stands in a report.

    Attributes:
        values: by name, (published value, path in the report, what ours is multiplied with).
        note: what makes them hard to compare.
    """

    values: dict[str, tuple[float, str, float]]
    note: str


_CAPTIONS = {"BLEU-4": "bleu4", "METEOR": "meteor", "ROUGE-L": "rouge_l", "CIDEr": "cider"}
_CAPTION_NOTE = (
    "the released code scores captions without the PTB tokenizer and chooses weights on the test split; a space at the "
    "end of every caption lifts its ROUGE-L by several points"
)


def _captions(*scores: float) -> Published:
    pairs = zip(_CAPTIONS.items(), scores, strict=True)
    return Published({name: (score, f"captioning.{key}", 100.0) for (name, key), score in pairs}, _CAPTION_NOTE)


PUBLISHED: dict[tuple[Task, str], Published] = {
    ("captioning", "msrvtt"): _captions(45.8, 31.0, 68.4, 60.2),
    ("captioning", "msvd"): _captions(64.4, 43.4, 83.9, 131.8),
}
"""By task and data set, as Table 2 has them. Of the other tables no copy was at hand to check numbers against."""


def published_of(task: Task, data_set: str) -> Published:
    """What is on record.

    Raises:
        ValueError: there is nothing for this task and data set.
    """
    found = PUBLISHED.get((task, data_set))
    if found is None:
        known = ", ".join(f"{name} ({of})" for of, name in PUBLISHED)
        raise ValueError(f"--compare is {data_set!r}: no published number of {task} on it is on record; known: {known}")
    return found


def comparison(data_set: str, published: Published, report: Mapping[str, Any]) -> list[str]:
    """Lines with ours beside the published numbers.

    Args:
        data_set: its name.
        published: of it.
        report: of :func:`stoa.tasks.evaluation.evaluate`, or as JSON holds it.
    """
    report = json.loads(report_json(report))
    lines = [f"{data_set:16}{'ours':>10}{'published':>12}"]
    for name, (value, path, factor) in published.values.items():
        ours: Any = report
        for key in path.split("."):
            ours = ours[key]
        lines.append(f"  {name:14}{factor * float(ours):10.1f}{value:12.1f}")
    return [*lines, f"  note: {published.note}"]
