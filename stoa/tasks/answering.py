"""Answers to questions about videos: chosen among those of training, said word by word, or picked from options.

Shape legend: B clips of a batch, Q questions, L text tokens, P tokens of a prompt.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from typing import TypeVar

import numpy as np
import torch
from torch.nn import functional as F

from stoa.data.text import decode_tokens, encode_caption
from stoa.manifest import Caption, Prompt
from stoa.models.config import PlmForm
from stoa.models.video_language import TextFeatures, VideoFeatures
from stoa.objectives.answer import answer_logits, answer_pass
from stoa.objectives.pairs import Asked, match_log_probability
from stoa.questions import QuestionRow
from stoa.tasks.config import GenerationConfig
from stoa.tasks.generation import generate
from stoa.tasks.trained import TrainedModel
from stoa.tasks.videos import Read

T = TypeVar("T")

_TEXTS_AT_ONCE = 64


@torch.inference_mode()
def choose_answers(
    trained: TrainedModel, videos: Iterable[Read], questions: Sequence[QuestionRow], answers: Sequence[str]
) -> dict[str, str]:
    """The most likely of the model's answers, by id of the question."""

    def answer(video: VideoFeatures, asked: list[QuestionRow]) -> list[str]:
        text, _, mask_QL = _encode(trained, [Prompt(question.question) for question in asked])
        rows = trained.model.fused(answer_pass(trained.model, video, text, mask_QL))
        best = answer_logits(trained.model, rows).argmax(dim=1)
        return [answers[i] for i in best.tolist()]

    return _ask(trained, videos, questions, answer)


@torch.inference_mode()
def say_answers(
    trained: TrainedModel,
    videos: Iterable[Read],
    questions: Sequence[QuestionRow],
    config: GenerationConfig,
    form: PlmForm,
) -> dict[str, str]:
    """Answers said word by word, by id of the question."""

    def answer(video: VideoFeatures, asked: list[QuestionRow]) -> list[str]:
        # A word of room: an answer follows, which is cut to what the model's text leaves.
        most = trained.model.config.max_tokens - 1
        encoded = [encode_caption(Prompt(question.question), most) for question in asked]
        lengths_Q = torch.tensor([int(e.text_mask_L.sum()) - 1 for e in encoded], device=trained.device)
        prefix_QP = torch.from_numpy(np.stack([e.tokens_L for e in encoded])).to(trained.device)
        said = generate(trained.model, video, prefix_QP[:, : int(lengths_Q.max())], lengths_Q, config, form)
        return [decode_tokens(tokens) for tokens in said]

    return _ask(trained, videos, questions, answer)


@torch.inference_mode()
def pick_options(
    trained: TrainedModel, videos: Iterable[Read], questions: Sequence[QuestionRow]
) -> dict[str, dict[str, str]]:
    """The option that fits the video best, by id of the question; per method, ``vtm`` (the matching head) and ``itc``
    (the towers' cosine).

    Raises:
        ValueError: a question has no options.
    """
    open_ended = [question.id for question in questions if not question.options]
    if open_ended:
        raise ValueError(f"question {open_ended[0]!r} has no options; this is an open question")
    model = trained.model

    def scores(video: VideoFeatures, asked: list[QuestionRow]) -> list[dict[str, str]]:
        captions = [Caption(f"{q.question} {option}".strip()) for q in asked for option in q.options]
        rows = [row for row, question in enumerate(asked) for _ in question.options]
        clip_Q = torch.tensor(rows, device=trained.device)
        text, ids_QL, mask_QL = _encode(trained, captions)
        pairs = Asked(video.tokens_BGd, video.valid_BG, clip_Q, text.tokens_BLd, ids_QL, mask_QL)
        vtm_Q = match_log_probability(model, pairs)
        itc = F.cosine_similarity(video.pooled_Bd[clip_Q].float(), text.pooled_Bd.float()).tolist()
        picked, start = [], 0
        for question in asked:
            ends = start + len(question.options)
            best = {name: int(np.argmax(of[start:ends])) for name, of in (("vtm", vtm_Q.tolist()), ("itc", itc))}
            picked.append({name: question.options[i] for name, i in best.items()})
            start = ends
        return picked

    picked = _ask(trained, videos, questions, scores)
    return {method: {id: choice[method] for id, choice in picked.items()} for method in ("vtm", "itc")}


def _ask(
    trained: TrainedModel,
    videos: Iterable[Read],
    questions: Sequence[QuestionRow],
    answer: Callable[[VideoFeatures, list[QuestionRow]], list[T]],
) -> dict[str, T]:
    """Encode every video that is asked about once, and ask."""
    of_clip: dict[str, list[QuestionRow]] = defaultdict(list)
    for question in questions:
        of_clip[question.clip].append(question)
    out: dict[str, T] = {}
    for rows, batch in videos:
        video = trained.model.encode_video(batch.to(trained.device))
        asked = [(row, question) for row, clip in enumerate(rows) for question in of_clip[clip.id]]
        for start in range(0, len(asked), _TEXTS_AT_ONCE):
            some = asked[start : start + _TEXTS_AT_ONCE]
            of_videos = _rows(video, torch.tensor([row for row, _ in some], device=trained.device))
            said = answer(of_videos, [question for _, question in some])
            out |= {question.id: word for (_, question), word in zip(some, said, strict=True)}
    return out


def _rows(video: VideoFeatures, rows: torch.Tensor) -> VideoFeatures:
    return VideoFeatures(*(part[rows] for part in video))


def _encode(trained: TrainedModel, texts: Sequence[Caption]) -> tuple[TextFeatures, torch.Tensor, torch.Tensor]:
    """Features, token ids (Q, L) and masks (Q, L)."""
    encoded = [encode_caption(text, trained.model.config.max_tokens) for text in texts]
    tokens, mask = (
        torch.from_numpy(np.stack(arrays)).to(trained.device)
        for arrays in ([e.tokens_L for e in encoded], [e.text_mask_L for e in encoded])
    )
    return trained.model.encode_text(tokens, mask), tokens, mask
