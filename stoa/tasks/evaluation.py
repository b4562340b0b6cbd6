"""One evaluation: a task, a split, and how its videos are read."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from stoa.data.clips import Clips
from stoa.data.ledger import Ledger
from stoa.data.loader import ids_of_all, open_clips
from stoa.models.config import PlmForm
from stoa.objectives.config import NullToken
from stoa.questions import QuestionRow, questions_of_split
from stoa.tasks.answering import choose_answers, pick_options, say_answers
from stoa.tasks.captioning import caption_videos
from stoa.tasks.config import EvaluationConfig, GenerationConfig, Task
from stoa.tasks.coverage import Coverage, coverage_of, coverage_of_questions
from stoa.tasks.gallery import Gallery, encode_galleries
from stoa.tasks.matching import evaluate_matching
from stoa.tasks.metrics.answers import answer_accuracy, chance_accuracy
from stoa.tasks.metrics.captions import CaptionScores, require_scorers, score_captions
from stoa.tasks.metrics.ranking import chance_metrics
from stoa.tasks.protocol import data_card, protocol_card
from stoa.tasks.retrieval import RetrievalScores, evaluate_hard_set, retrieval_scores
from stoa.tasks.trained import TrainedModel, untrained
from stoa.tasks.videos import VideoReader
from stoa.training.validation import Metric

METRICS = "pycocoevalcap, PTB tokenizer"

HEADLINES: dict[Task, Metric] = {
    "retrieval": Metric("R@1 text-to-video (itc+vtm)"),
    "captioning": Metric("CIDEr", 100.0, "(x 100)"),
    "answering": Metric("accuracy"),
    "multiple_choice": Metric("accuracy (vtm)"),
}
"""By task, what :attr:`Evaluation.headline` is."""


class Abilities(NamedTuple):
    """What of a model's training its tasks depend on.

    Attributes:
        plm_form: where it has learned to predict the next word.
        null_token: of its objectives.
        answers: the classes of its answer head, if it has one.
        losses: it was trained with, in the last run or before; none where that is not on record.
    """

    plm_form: PlmForm
    null_token: NullToken
    answers: list[str] | None
    losses: list[str] | None = None

    def lacks(self, loss: str) -> bool:
        """Whether it was certainly never trained with the loss."""
        return self.losses is not None and loss not in self.losses


class Evaluation(NamedTuple):
    """A report (JSON-able but for metrics, which have ``to_dict``), its headline, and what the model said.

    Attributes:
        report: numbers and protocol card.
        headline: the number by which models are chosen, higher is better.
        predictions: by clip or question, for tasks that have some.
        scores: of retrieval, with its gallery.
    """

    report: dict[str, Any]
    headline: float
    predictions: dict[str, str] | None = None
    scores: tuple[RetrievalScores, Gallery] | None = None


def evaluate(
    task: Task,
    trained: TrainedModel,
    abilities: Abilities,
    config: EvaluationConfig,
    clips: Clips | None = None,
    *,
    meteor: bool = True,
    said_to_be: str | None = None,
) -> Evaluation:
    """Evaluate a model on a task.

    Args:
        task: what.
        trained: the model.
        abilities: of the model.
        config: on what, and how.
        clips: a part of the configuration's split, which is then the whole; None is the split.
        meteor: of captions METEOR too.
        said_to_be: the published test set that the data are of, where that is not known otherwise.

    Raises:
        ValueError: the manifest or the questions are wrong, none of the videos can be read, the model lacks what the
            task needs, or captions cannot be scored here.
    """
    data = _data(task, config, clips, said_to_be)
    if task == "retrieval":
        return _retrieval(trained, abilities, data, config)
    if task == "captioning":
        return _captioning(trained, abilities, data, config, meteor)
    return _answering(task, trained, abilities, data, config)


def coverage(task: Task, config: EvaluationConfig, *, said_to_be: str | None = None) -> Coverage:
    """Of how much of a data set a report will be, at best: if every clip can be read.

    Args:
        task, config, said_to_be: as in :func:`evaluate`.

    Raises:
        ValueError: the manifest or the questions are wrong.
    """
    return _data(task, config, None, said_to_be).coverage()


def open_split(manifest: str, split: str | None) -> Clips:
    """Clips of a split, or of all; rows without a caption are left out."""
    return open_clips(manifest, split, Ledger(None))


class _Data(NamedTuple):
    """What a task measures: clips, or questions about them."""

    clips: Clips
    questions: list[QuestionRow]
    facts: dict[str, Any]  # of the questions
    coverage: Callable[..., Coverage]  # given the ids that are ``unreadable``


def _data(task: Task, config: EvaluationConfig, part: Clips | None, said_to_be: str | None) -> _Data:
    clips = open_split(config.manifest, config.split) if part is None else part
    if task in ("retrieval", "captioning"):
        of_clips = partial(coverage_of, clips, config.manifest, config.split, captions=True)
        return _Data(clips, [], {}, partial(of_clips, said_to_be=said_to_be, a_part=part is not None))
    asked, absent, facts = _questions(clips, config)
    of_questions = partial(
        coverage_of_questions, asked, absent, str(config.questions), clips, config.manifest, config.split
    )
    return _Data(clips, asked, facts, partial(of_questions, said_to_be=said_to_be, a_part=part is not None))


def _measured(of: Coverage) -> dict[str, Any]:
    """What a report begins with."""
    return {"partial": of.partial, "coverage": of}


def _reader(trained: TrainedModel, clips: Clips, config: EvaluationConfig, name: str) -> VideoReader:
    return VideoReader(
        clips,
        trained.model.config,
        trained.side,
        decoder=config.decoder,
        timeout_seconds=config.decode_timeout_seconds,
        batch_size=config.batch_size,
        num_workers=config.num_workers,
        view=config.view,
        name=name,
    )


def _card(
    trained: TrainedModel, videos: VideoReader, config: EvaluationConfig, of: Coverage, **facts: Any
) -> dict[str, Any]:
    seen = len(videos) - len(videos.unreadable)
    counts: dict[str, Any] = {"measured": of.card()}
    counts |= {"videos": f"{seen} of {len(videos)} readable", "decoder": config.decoder, "view": config.view}
    if trained.model.config.num_boxes:
        counts["boxes"] = f"on {videos.with_boxes} of {seen} clips"
    return protocol_card(trained, videos.clips, config.manifest, config.split, **counts, **facts)


def _retrieval(trained: TrainedModel, abilities: Abilities, data: _Data, config: EvaluationConfig) -> Evaluation:
    models = {"trained": trained} | ({"untrained": untrained(trained)} if config.baseline else {})
    hard = sorted(Path(config.hard).glob("*.jsonl")) if config.hard is not None else []
    if config.hard is not None and not hard:
        raise ValueError(
            f"--hard {config.hard} holds no .jsonl manifest; name the folder 'hard' of a Moving Shapes set"
        )
    videos = _reader(trained, data.clips, config, "encode")
    galleries = dict(zip(models, encode_galleries(list(models.values()), videos), strict=True))
    gallery = galleries["trained"]
    scores = {
        name: retrieval_scores(model, galleries[name], top_k=config.top_k, dual_softmax=config.dual_softmax)
        for name, model in models.items()
    }
    metrics = {name: of_model.metrics(gallery.relevant_QV) for name, of_model in scores.items()}
    of = data.coverage(unreadable=dict(videos.unreadable))
    report: dict[str, Any] = {
        **_measured(of),
        "retrieval": metrics,
        "chance": {
            "text-to-video": chance_metrics(gallery.relevant_QV),
            "video-to-text": chance_metrics(gallery.relevant_QV.T),
        },
        "hard_sets": {},
        "matches": {},
        "unreadable": dict(videos.unreadable),
    }
    if trained.model.config.objects.num_trajectories:
        report["matches"] = {
            name: evaluate_matching(model, galleries[name], null_token=abilities.null_token)
            for name, model in models.items()
        }
    hard_sums: list[tuple[str, str]] = []
    num_hard = num_lost = 0
    for path in hard:
        hard_videos = _reader(trained, open_split(str(path), None), config, f"encode {path.stem}")
        hard_sums.append((path.stem, hard_videos.clips.fingerprint))
        of_models = dict(zip(models, encode_galleries(list(models.values()), hard_videos), strict=True))
        report["hard_sets"][path.stem] = {
            name: evaluate_hard_set(model, of_models[name], form=abilities.plm_form) for name, model in models.items()
        }
        num_hard += len(hard_videos)
        num_lost += len(hard_videos.unreadable)
        report["unreadable"] |= dict(hard_videos.unreadable)
        report["partial"] |= bool(hard_videos.unreadable)
    facts: dict[str, Any] = {"captions": len(gallery.video_of_text_Q)}
    if hard:
        digest = hashlib.sha256(repr(hard_sums).encode()).hexdigest()
        facts |= {"hard sets": f"{config.hard}: {', '.join(name for name, _ in hard_sums)}", "hard sets sha256": digest}
        facts["videos of hard sets"] = f"{num_hard - num_lost} of {num_hard} readable"
    facts |= _matching_head(abilities)
    facts["re-ranked candidates"] = min(config.top_k, len(gallery.ids))
    report["protocol"] = _card(trained, videos, config, of, **facts)
    headline = metrics["trained"]["itc+vtm"]["text-to-video"].r1
    return Evaluation(report, headline, scores=(scores["trained"], gallery))


def _captioning(
    trained: TrainedModel, abilities: Abilities, data: _Data, config: EvaluationConfig, meteor: bool
) -> Evaluation:
    require_scorers()
    _require_words("captioning", abilities)
    videos = _reader(trained, data.clips, config, "caption")
    predictions = caption_videos(trained, videos, config.generation, abilities.plm_form)
    unreadable = dict(videos.unreadable)
    of = data.coverage(unreadable=unreadable)
    card = _card(trained, videos, config, of, **_search(config.generation), metrics=METRICS)
    scores = _score_captions(predictions, data.clips, unreadable, meteor=meteor)
    report = {**_measured(of), "captioning": scores, "unreadable": unreadable, "protocol": card}
    return Evaluation(report, scores.cider, predictions)


def _score_captions(
    predictions: Mapping[str, str], clips: Clips, unreadable: Mapping[str, str], *, meteor: bool = True
) -> CaptionScores:
    rows = [clips.row(index) for index, id in enumerate(clips.ids()) if id not in unreadable]
    references = {row.id: [caption.text for caption in row.captions] for row in rows}
    return score_captions(predictions, references, meteor=meteor)


def _answering(
    task: Task, trained: TrainedModel, abilities: Abilities, data: _Data, config: EvaluationConfig
) -> Evaluation:
    questions, facts = data.questions, data.facts
    videos = _reader(trained, data.clips, config, "answer")
    if task == "multiple_choice":
        picked = pick_options(trained, videos, questions)
        facts |= _matching_head(abilities)
        facts["answers"] = f"picked from {len(questions[0].options)} options"
    elif abilities.answers is not None:
        picked = {"chosen": choose_answers(trained, videos, questions, abilities.answers)}
        facts["answers"] = f"chosen among {len(abilities.answers)} of training; any other is wrong"
    else:
        _require_words("answering", abilities)
        picked = {"said": say_answers(trained, videos, questions, config.generation, abilities.plm_form)}
        facts |= {"answers": "said, exact match", **_search(config.generation)}
    unreadable = dict(videos.unreadable)
    asked = [question for question in questions if question.clip not in unreadable]
    accuracies = {method: answer_accuracy(answers, asked) for method, answers in picked.items()}
    facts["questions"] = f"{len(asked)} of {len(questions)} with a readable video"
    of = data.coverage(unreadable=unreadable)
    card = _card(trained, videos, config, of, **facts)
    report = {**_measured(of), task: accuracies, "unreadable": unreadable, "protocol": card}
    if task == "multiple_choice":
        report["chance"] = chance_accuracy(asked)
    first = next(iter(picked))
    return Evaluation(report, accuracies[first].accuracy, picked[first])


def score_file(
    task: Task, predictions: Mapping[str, str], config: EvaluationConfig, *, said_to_be: str | None = None
) -> dict[str, Any]:
    """A report on captions or answers that were made elsewhere.

    Args:
        task, config, said_to_be: as in :func:`evaluate`.
        predictions: by id of the clip or question.

    Raises:
        ValueError: the task has no predictions, an id is missing or has none, or the manifest or questions are wrong.
    """
    if task == "retrieval":
        raise ValueError(f"--task is {task}; a file of predictions is scored for one of the other tasks")
    data = _data(task, config, None, said_to_be)
    said = repr(sorted(predictions.items())).encode()
    facts: dict[str, Any] = {"predictions sha256": hashlib.sha256(said).hexdigest()}
    if task == "captioning":
        scores: Any = _score_captions(predictions, data.clips, {})
        facts["metrics"] = METRICS
    else:
        scores = {"given": answer_accuracy(predictions, data.questions)}
    choices = task == "multiple_choice" and all(question.options for question in data.questions)
    chance = {"chance": chance_accuracy(data.questions)} if choices else {}
    of = data.coverage()
    card = data_card(data.clips, config.manifest, config.split) | {"measured": of.card()} | facts | data.facts
    return {**_measured(of), task: scores, **chance, "unreadable": {}, "protocol": card}


def _questions(clips: Clips, config: EvaluationConfig) -> tuple[list[QuestionRow], list[QuestionRow], dict[str, Any]]:
    """Questions about the clips, those whose clip is not there, and facts of them for the card."""
    if config.questions is None:
        raise ValueError("--questions is missing; pass the .jsonl file with the questions")
    asked, absent = questions_of_split(
        config.questions,
        config.split,
        clips.ids(),
        every_clip=lambda: ids_of_all(config.manifest),
        types=config.question_types,
    )
    facts: dict[str, Any] = {
        "questions file": config.questions,
        "question types": "all" if config.question_types is None else ", ".join(config.question_types),
        "questions sha256": hashlib.sha256(repr(asked).encode()).hexdigest(),
    }
    if absent:
        facts["questions without their clip"] = f"{len(absent)}, the first about {absent[0].clip!r}"
    return asked, absent, facts


def _matching_head(abilities: Abilities) -> dict[str, Any]:
    """What the card says of it, if anything."""
    return {"never trained": "the matching head: vtm is that of random weights"} if abilities.lacks("vtm") else {}


def _require_words(task: Task, abilities: Abilities) -> None:
    if abilities.lacks("plm"):
        raise ValueError(
            f"--task is {task}, and --run was never trained to say words (plm; its losses: "
            f"{', '.join(abilities.losses or ())}); fine-tune it with a recipe of recipes/finetune for {task}"
        )


def _search(config: GenerationConfig) -> dict[str, Any]:
    return {"beams": config.beams, "length penalty": config.length_penalty}
