"""Questions to train on, each with the clip it is about."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Sequence

from stoa.data.clips import Clips, SomeClips
from stoa.data.text import foreign_script_share, used_token_ids
from stoa.manifest import Caption, ClipRow, Prompt
from stoa.questions import QuestionRow


class QuestionClips(SomeClips):
    """A clip for every question, which stands in the place of its captions.

    Args:
        clips: that questions are about.
        questions: to ask, each about one of these.
        answers: class by class, for a model that chooses one; none for a model that says its answer.
        captions: after the questions come the clips once more, each with its captions.
    """

    def __init__(
        self,
        clips: Clips,
        questions: Sequence[QuestionRow],
        answers: Sequence[str] | None,
        *,
        captions: bool = False,
    ) -> None:
        place = {clip: index for index, clip in enumerate(clips.ids())}
        described = [index for index, count in enumerate(clips.caption_counts()) if count] if captions else []
        super().__init__(clips, [*(place[question.clip] for question in questions), *described])
        classes = {} if answers is None else {answer: number for number, answer in enumerate(answers)}
        self._prompts = [
            Prompt(q.question, answer=q.answer if answers is None else "", target=classes.get(q.answer, -1))
            for q in questions
        ]

    @property
    def fingerprint(self) -> str:
        count = len(self._prompts)
        asked, described = self._indices[:count], self._indices[count:]
        questions = [(s, p.text, p.answer, p.target) for s, p in zip(asked, self._prompts, strict=True)]
        parts = (self._clips.fingerprint, questions, *([described] if described else []))
        return hashlib.sha256(repr(parts).encode()).hexdigest()

    def texts(self, index: int, row: ClipRow) -> tuple[Caption, ...]:
        return (self._prompts[index],) if index < len(self._prompts) else super().texts(index, row)

    def caption_counts(self) -> list[int]:
        return [1] * len(self._prompts) + super().caption_counts()[len(self._prompts) :]

    def used_token_ids(self) -> list[int]:
        ids = used_token_ids(self._prompts)
        return sorted({*ids, *self._clips.used_token_ids()}) if len(self) > len(self._prompts) else ids

    def foreign_script_share(self) -> float:
        return foreign_script_share(self._prompts)


def answer_classes(questions: Iterable[QuestionRow], most: int | None = None) -> list[str]:
    """The answers that occur, the most frequent first (equally frequent ones in the order of the alphabet)."""
    counts = Counter(question.answer for question in questions)
    return [answer for answer, _ in sorted(counts.items(), key=lambda item: (-item[1], item[0]))][:most]
