"""Accuracy of answers, overall and by type of question."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass

from stoa.questions import QuestionRow


@dataclass(frozen=True, slots=True)
class Accuracy:
    """Percent of ``num_questions`` answered right; ``by_type`` holds (percent, questions) of each type."""

    accuracy: float
    num_questions: int
    by_type: dict[str, tuple[float, int]]

    def to_dict(self) -> dict[str, object]:
        return asdict(self)


def answer_accuracy(predictions: Mapping[str, str], questions: Sequence[QuestionRow]) -> Accuracy:
    """Exact match, up to case and blanks: CLIP's tokens say "1 0" for "10" and "t - shirt" for "t-shirt".

    Args:
        predictions: by id of the question.
        questions: all of them; ids are unique.

    Raises:
        ValueError: predictions and questions differ in their ids; the message names some.
    """
    ids = {question.id for question in questions}
    missing, extra = [q.id for q in questions if q.id not in predictions], sorted(predictions.keys() - ids)
    for which, what in ((missing, "have no prediction"), (extra, "have a prediction and are not asked")):
        if which:
            raise ValueError(f"{len(which)} questions {what}: {', '.join(which[:3])}{', ...' if which[3:] else ''}")
    if not questions:
        raise ValueError("there is no question to score")
    right: dict[str, list[bool]] = defaultdict(list)
    for question in questions:
        right[question.type].append(_plain(predictions[question.id]) == _plain(question.answer))
    every = [hit for hits in right.values() for hit in hits]
    return Accuracy(_percent(every), len(every), {name: (_percent(hits), len(hits)) for name, hits in right.items()})


def chance_accuracy(questions: Sequence[QuestionRow]) -> float:
    """Percent that picking one of a question's options at random gets right, on average.

    Args:
        questions: with options each, of which one or, where they repeat, several are the answer.
    """
    shares = [sum(_plain(o) == _plain(q.answer) for o in q.options) / len(q.options) for q in questions]
    return 100 * sum(shares) / len(shares)


def _plain(answer: str) -> str:
    return "".join(answer.lower().split())


def _percent(hits: list[bool]) -> float:
    return 100.0 * sum(hits) / len(hits)
