"""Figures that the authors of STOA-VLP have published (AAAI 2023), to print beside ours. They are never ours."""

from __future__ import annotations

import difflib
import json
from collections.abc import Mapping
from typing import Any, NamedTuple

from stoa.data.published import TEST_IDS_SHA256
from stoa.tasks.config import Task
from stoa.tasks.coverage import Coverage, published_counts

SOURCE = "STOA-VLP, AAAI 2023, whose authors print those of other methods beside their own"

_Rows = Mapping[str, tuple[float, ...]]


class Table(NamedTuple):
    """Rows of a published table, as far as they concern one data set.

    Attributes:
        title: number of the table, and what it shows.
        rows: figures by method, one for each of :data:`COLUMNS`.
    """

    title: str
    rows: _Rows


COLUMNS: Mapping[Task, tuple[str, ...]] = {
    "captioning": ("CIDEr", "METEOR", "ROUGE-L", "BLEU-4"),
    "retrieval": ("R@1", "R@5", "R@10"),
    "answering": ("accuracy",),
    "multiple_choice": ("accuracy",),
}

_ABLATION = ("base", "+ Obj", "+ OTA", "+ Act, without ASP", "all")


def _captions(rows: _Rows, ablation: tuple[tuple[float, ...], ...]) -> tuple[Table, ...]:
    return Table("Table 1, captions", rows), _ablation(*ablation)


def _ablation(*figures: tuple[float, ...]) -> Table:
    return Table("Table 4, STOA-VLP's ablation", dict(zip(_ABLATION, figures, strict=True)))


def _retrieval(rows: _Rows) -> tuple[Table, ...]:
    return (Table("Table 2, text-to-video retrieval", rows),)


def _accuracy(rows: Mapping[str, float]) -> Table:
    return Table("Table 3, accuracy (%)", {method: (figure,) for method, figure in rows.items()})


PUBLISHED: Mapping[Task, Mapping[str, tuple[Table, ...]]] = {
    "captioning": {
        "msrvtt": _captions(
            {
                "STOA-VLP": (60.2, 31.0, 68.4, 45.8),
                "SwinBERT": (53.8, 29.9, 62.1, 41.9),
                "Clip4Caption": (57.7, 30.7, 63.7, 46.1),
                "MV-GPT (reads subtitles)": (60.0, 38.7, 64.0, 48.9),
            },
            (
                (58.3, 30.6, 68.2, 44.8),
                (58.7, 30.8, 68.2, 45.2),
                (59.6, 30.7, 68.2, 45.1),
                (58.9, 30.9, 68.3, 44.9),
                (60.2, 31.0, 68.4, 45.8),
            ),
        ),
        "msvd": _captions(
            {
                "STOA-VLP": (131.8, 43.4, 83.9, 64.4),
                "SwinBERT": (120.6, 41.3, 77.5, 58.2),
                "UniPerceiver": (131.0, 42.3, 79.0, 61.5),
            },
            (
                (127.3, 42.1, 82.7, 62.3),
                (128.7, 42.3, 83.0, 62.7),
                (131.7, 42.9, 83.4, 63.0),
                (128.0, 43.3, 83.5, 63.6),
                (131.8, 43.4, 83.9, 64.4),
            ),
        ),
    },
    "retrieval": {
        "msrvtt-1k-a": _retrieval(
            {
                "STOA-VLP": (50.1, 75.5, 83.8),
                "CLIP4Clip": (44.5, 71.4, 81.6),
                "BridgeFormer, from CLIP": (44.9, 71.9, 80.3),
                "CLIP2TV": (48.3, 74.6, 82.8),
                "MDMMT-2 (more corpora)": (48.5, 75.4, 83.9),
                "ALPRO": (33.9, 60.7, 73.2),
                "Frozen": (32.5, 61.5, 71.2),
            }
        ),
        "lsmdc": _retrieval(
            {
                "STOA-VLP": (24.8, 46.2, 56.0),
                "CLIP4Clip": (21.6, 41.8, 49.8),
                "BridgeFormer, from CLIP": (21.8, 41.1, 50.6),
                "MDMMT-2 (more corpora)": (26.9, 46.7, 55.9),
                "Frozen": (15.0, 30.8, 40.3),
            }
        ),
        "didemo": _retrieval(
            {
                "STOA-VLP": (51.1, 76.4, 84.0),
                "CLIP4Clip": (43.4, 70.2, 80.6),
                "ALPRO": (35.9, 67.5, 78.8),
                "Frozen": (31.0, 59.8, 72.4),
            }
        ),
    },
    "answering": {
        "msrvtt-qa": (
            _accuracy(
                {
                    "STOA-VLP": 43.2,
                    "VIOLET": 43.9,
                    "Merlot": 43.1,
                    "ALPRO": 42.1,
                    "MV-GPT": 41.7,
                    "JustAsk": 41.5,
                    "HD-VILA": 40.0,
                    "ClipBERT": 37.4,
                }
            ),
        ),
        "msvd-qa": (
            _accuracy({"STOA-VLP": 50.8, "VIOLET": 47.9, "ALPRO": 45.9, "JustAsk": 46.3}),
            _ablation((49.6,), (50.1,), (50.7,), (50.3,), (50.8,)),
        ),
    },
    "multiple_choice": {
        "msrvtt-mc": (
            _accuracy({"STOA-VLP": 98.5, "VIOLET": 91.9, "Merlot": 90.9, "HD-VILA": 97.1, "ClipBERT": 88.2}),
        ),
    },
}
"""By task and data set, whose names are those of ``stoa prepare --dataset``."""

_FINE_TUNED = "the published figures are of models fine-tuned on the training split"
_NOTES: Mapping[Task, str] = {
    "captioning": (
        f"{_FINE_TUNED}; STOA-VLP's released code scores captions without the PTB tokenizer and chooses weights on the "
        "test split; a space at the end of every caption lifts its ROUGE-L by several points"
    )
}


def known_data_sets() -> str:
    """Names that have figures, by task."""
    return "; ".join(f"{task}: {', '.join(tables)}" for task, tables in PUBLISHED.items())


def published_of(task: Task, data_set: str) -> tuple[Table, ...]:
    """What is on record.

    Raises:
        ValueError: there is nothing for this task and data set.
    """
    found = PUBLISHED[task].get(data_set)
    if found is None:
        near = difflib.get_close_matches(data_set.lower(), PUBLISHED[task], n=1, cutoff=0.4)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise ValueError(
            f"--compare is {data_set!r}: no published figures of {task} on it are on record{hint} "
            f"(known: {known_data_sets()})"
        )
    return found


def require_comparable(data_set: str, of: Coverage) -> None:
    """That a report is of the whole published test set, as far as counts tell: a part of a gallery is easier to search,
    and a part of the clips may be the easier ones.

    Raises:
        ValueError: it is of another set or split, or of fewer or more than was published.
    """
    if of.data_set != data_set or of.whole != published_counts(data_set, "test", of.seen):
        measured = "data of your own" if of.data_set is None else f"{of.data_set}, split {of.split}"
        raise ValueError(
            f"--compare is {data_set!r}, whose published figures are of its test split, and what is measured is of "
            f"{measured}; name what belongs together, or leave --compare out"
        )
    if of.seen != {**of.seen, **of.whole}:
        what = "of a part" if of.partial else "of more"
        raise ValueError(
            f"--compare is {data_set!r}, and what is measured is {of}: figures {what} cannot be compared with those of "
            "the whole test set; complete the data, or leave --compare out"
        )


def comparison(task: Task, data_set: str, report: Mapping[str, Any]) -> list[str]:
    """Lines with a report's numbers above the published ones.

    Args:
        task, data_set: what was measured, and on what.
        report: of :func:`stoa.tasks.evaluation.evaluate`.

    Raises:
        ValueError: as :func:`published_of` and :func:`require_comparable`.
    """
    from stoa.tasks.report import report_json  # of numbers on tensors; the names of data sets need none

    tables, of = published_of(task, data_set), report["coverage"]
    require_comparable(data_set, of)

    def line(name: str, figures: tuple[float, ...]) -> str:
        return f"  {name:30}" + "".join(f"{figure:9.1f}" for figure in figures)

    lines = [f"{task.replace('_', ' ')} on {data_set}, beside published figures"]
    lines += [" " * 32 + "".join(f"{column:>9}" for column in COLUMNS[task]), "this report"]
    lines += [line(name, figures) for name, figures in _ours(task, json.loads(report_json(report))).items()]
    for table in tables:
        lines += [f"published, not ours: {table.title}"]
        lines += [line(name, figures) for name, figures in table.rows.items()]
    lines += [f"  source: {SOURCE}", f"  note: {_NOTES.get(task, _FINE_TUNED)}"]
    return [*lines, f"  clips: {_identity(data_set, of)}"]


def _ours(task: Task, report: Mapping[str, Any]) -> dict[str, tuple[float, ...]]:
    if task == "captioning":
        keys = ("cider", "meteor", "rouge_l", "bleu4")
        return {"captions": tuple(100 * report["captioning"][key] for key in keys)}
    if task == "retrieval":
        by_text = {name: found["text-to-video"] for name, found in report["retrieval"]["trained"].items()}
        return {name: (found["r1"], found["r5"], found["r10"]) for name, found in by_text.items()}
    return {name: (found["accuracy"],) for name, found in report[task].items()}


def _identity(data_set: str, of: Coverage) -> str:
    """What can be known of whether these are the published clips."""
    expected = TEST_IDS_SHA256.get(data_set)
    if expected is None:
        return "their number is that of the published test set; whether they are the same ones is not known here"
    if of.ids_sha256 == expected:
        return "their ids are those of the published test set; the wording of its texts is not checked"
    return "their number is that of the published test set and their ids are not: they may be other clips"
