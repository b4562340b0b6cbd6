"""From a pre-trained model to one that is good at a task, chosen on validation."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch

from stoa.config import Config
from stoa.data.clips import Clips, SomeClips
from stoa.data.dataset import stable_hash
from stoa.data.ledger import Ledger
from stoa.data.loader import ids_of_all, open_clips, to_train_on
from stoa.data.question_clips import QuestionClips, answer_classes
from stoa.models.clip import image_side
from stoa.models.config import ModelConfig
from stoa.models.video_language import VideoLanguageModel
from stoa.models.weights import Trained, load_pretrained
from stoa.objectives.config import ObjectivesConfig
from stoa.objectives.gather import from_first_rank, rank
from stoa.questions import QuestionRow, questions_of_split
from stoa.run import Process, joined, losses_until_now, say_opening, train
from stoa.tasks.config import EvaluationConfig, FinetuneConfig, Task
from stoa.tasks.evaluation import HEADLINES, Abilities, Evaluation, evaluate
from stoa.tasks.metrics.captions import require_scorers
from stoa.tasks.trained import TrainedModel
from stoa.training import checkpoint
from stoa.training.config import TrainingConfig
from stoa.training.validation import Score


def finetune(
    config: FinetuneConfig, pretrained: Config, from_folder: Path, deepspeed_config: str, *, reshaped: bool = False
) -> None:
    """Fine-tune on this rank.

    Args:
        config: what.
        pretrained: the configuration of the checkpoint to start from.
        from_folder: that checkpoint, as :func:`stoa.training.checkpoint.find` gives it.
        deepspeed_config: path of DeepSpeed's JSON.
        reshaped: what is resumed may be of other processes.

    Raises:
        ValueError: whatever of this is wrong, in one line.
    """
    assert config.data.manifest is not None
    validation_clips = _validation_clips(config)  # what validation lacks is told before an hour's work
    if config.questions is not None:
        _questions(config, validation_clips, _validation_split(config))
    if config.task == "captioning":
        require_scorers()
    objectives = _predicting_as_before(config.objectives, pretrained.objectives)
    if config.keep_captions:  # are said from the start, as they are when somebody asks for one
        objectives = replace(objectives, plm_prefix="start")
    elif config.task == "answering":  # a question is the prefix, which is read whole: not by a pass that VTM shares
        objectives = replace(objectives, plm_prefix="random")
    with joined(config.training, deepspeed_config, reshaped=reshaped) as process:
        _finetune(config, pretrained, from_folder, objectives, validation_clips, process)


def _finetune(
    config: FinetuneConfig,
    pretrained: Config,
    from_folder: Path,
    objectives: ObjectivesConfig,
    validation_clips: Clips,
    process: Process,
) -> None:
    run = checkpoint.read_run(from_folder)
    model_config = replace(
        pretrained.model,
        num_frames=pretrained.model.num_frames if config.num_frames is None else config.num_frames,
        max_tokens=pretrained.model.max_tokens if config.max_tokens is None else config.max_tokens,
    )
    clips, answers = _open(config, process, model_config)
    assert config.data.manifest is not None
    if not config.validation.held_out:
        split = config.validation.split
        say_opening(process, validation_clips, config.data.manifest, split, "validating", model_config, config.data)
    model_config = replace(model_config, num_answers=len(answers or ()))
    used = None
    if pretrained.model.lm_vocab == "used":
        used = sorted({*run["used_token_ids"], *clips.used_token_ids()})
    model = VideoLanguageModel(model_config, used_token_ids=used)
    weights, weights_sha256 = checkpoint.read_weights(from_folder)
    trained = Trained(weights, pretrained.model, run["used_token_ids"], str(from_folder))
    load_pretrained(model, trained)
    training = _frozen_as_before(config.training, pretrained.training)
    stored = replace(pretrained, data=config.data, model=model_config, objectives=objectives, training=training)
    facts = {
        "used_token_ids": used,
        "task": config.task,
        "answers": answers,
        "losses": losses_until_now(objectives, run),
        "pretrained": {"checkpoint": str(from_folder), "step": run["step"], "weights sha256": weights_sha256},
    }
    abilities = Abilities(stored.objectives.plm_form, stored.objectives.null_token, answers)
    start = f"{config.task}: starts from {from_folder}, step {run['step']}"
    score = _validation(config, validation_clips, abilities, model_config, process)
    train(process, stored, model, clips, facts=facts, start=start, epochs=config.epochs, validate=score)


def _predicting_as_before(objectives: ObjectivesConfig, before: ObjectivesConfig) -> ObjectivesConfig:
    """Where the next word is predicted, and what matches no noun, are what the weights have learned.

    Raises:
        ValueError: another value than the default is asked for and it is not that of the run.
    """
    for name in ("plm_form", "null_token"):
        asked, learned = getattr(objectives, name), getattr(before, name)
        if asked not in (learned, getattr(ObjectivesConfig(), name)):
            raise ValueError(f"--objectives.{name} is {asked!r}, and --run was trained with {learned!r}; leave it out")
    return replace(objectives, plm_form=before.plm_form, null_token=before.null_token)


def _frozen_as_before(training: TrainingConfig, before: TrainingConfig) -> TrainingConfig:
    """A backbone that pre-training has kept as it was stays so, unless it is said otherwise."""
    if training.optim.frozen_vision_blocks is not None:
        return training
    frozen = before.optim.frozen_vision_blocks
    return replace(training, optim=replace(training.optim, frozen_vision_blocks=frozen))


def _open(config: FinetuneConfig, process: Process, model: ModelConfig) -> tuple[Clips, list[str] | None]:
    """What to train on, and the answers to choose from."""
    assert config.data.manifest is not None
    ledger = process.ledger if rank() == 0 else Ledger(None)
    clips = open_clips(config.data.manifest, config.data.split, ledger, together=config.data.together)
    say_opening(process, clips, config.data.manifest, config.data.split, "training", model, config.data)
    if config.validation.held_out:
        clips = SomeClips(clips, _held_out(clips, config.validation.held_out)[1])
    if config.questions is None:
        return to_train_on(clips, config.data), None
    questions, absent = _questions(config, clips, config.data.split)
    answers = answer_classes(questions, config.max_answers) if config.objectives.answer else None
    process.console.say(
        f"{len(questions):,} of {len(questions) + len(absent):,} questions have their clip"
        + (f", the first that lacks it is about {absent[0].clip!r}" if absent else "")
        + ("" if answers is None else f"; {len(answers):,} answers to choose from")
    )
    asked = QuestionClips(clips, questions, answers, captions=config.keep_captions)
    if config.keep_captions:
        process.console.say(f"{len(asked) - len(questions):,} clips with their captions stand among them")
    return asked, answers


def _questions(config: FinetuneConfig, clips: Clips, split: str) -> tuple[list[QuestionRow], list[QuestionRow]]:
    assert config.questions is not None and config.data.manifest is not None
    manifest = config.data.manifest
    return questions_of_split(config.questions, split, clips.ids(), every_clip=lambda: ids_of_all(manifest))


def _validation_clips(config: FinetuneConfig) -> Clips:
    assert config.data.manifest is not None
    if not config.validation.held_out:
        return open_clips(config.data.manifest, config.validation.split, Ledger(None))
    clips = open_clips(config.data.manifest, config.data.split, Ledger(None))
    return SomeClips(clips, _held_out(clips, config.validation.held_out)[0])


def _validation_split(config: FinetuneConfig) -> str:
    return config.data.split if config.validation.held_out else config.validation.split


def _held_out(clips: Clips, count: int) -> tuple[list[int], list[int]]:
    """(clips for validation, the others): the same ones in every run on the same clips.

    Raises:
        ValueError: none would be left.
    """
    if count >= len(clips):
        raise ValueError(f"--validation.held_out is {count}, and there are {len(clips)} clips to train on; lower it")
    order = sorted(range(len(clips)), key=[stable_hash(clip) for clip in clips.ids()].__getitem__)
    return sorted(order[:count]), sorted(order[count:])


def _validation(
    config: FinetuneConfig, clips: Clips, abilities: Abilities, model_config: ModelConfig, process: Process
) -> Callable[[VideoLanguageModel], Score]:
    """The task's headline on the validation split, computed on the first rank."""
    data = config.data
    assert data.manifest is not None
    evaluation = EvaluationConfig(
        manifest=data.manifest,
        split=_validation_split(config),
        questions=config.questions,
        top_k=config.validation.top_k,
        baseline=False,
        generation=config.validation.generation,
        decoder="auto" if data.decoder == "dali" else data.decoder,
        decode_timeout_seconds=data.decode_timeout_seconds,
        batch_size=config.validation.batch_size,
        num_workers=data.loader_processes,
        view=data.view,
    )
    task: Task = "retrieval" if config.task == "multiple_choice" else config.task
    side = image_side(model_config.backbone)

    @torch.no_grad()
    def score(model: VideoLanguageModel) -> Score:
        trained = TrainedModel(model, process.device, side, {"checkpoint": "in training"})
        return from_first_rank(lambda: scored(evaluate(task, trained, abilities, evaluation, clips, meteor=False)))

    def scored(found: Evaluation) -> Score:
        unreadable = found.report["unreadable"]
        if unreadable:
            clip, why = next(iter(unreadable.items()))
            process.console.say(
                f"validation is without {len(unreadable)} unreadable clip(s), the first {clip!r}: {why}"
            )
        of = found.report["coverage"]
        kind = "questions" if "questions" in of.seen else "clips"
        count = f"{of.seen[kind]:,}" + (f" of {of.whole[kind]:,}" if of.seen[kind] < of.whole[kind] else "")
        where = f"held out of {evaluation.split}" if config.validation.held_out else f"of {evaluation.split}"
        return Score(float(found.headline), HEADLINES[task], f"{count} {kind} {where}")

    return score
