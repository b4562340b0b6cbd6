"""How models are fine-tuned and evaluated. Needs no torch."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from stoa.data.config import CpuDecoder, DataConfig, View
from stoa.objectives.config import ObjectivesConfig
from stoa.training.config import TrainingConfig

Task = Literal["retrieval", "captioning", "answering", "multiple_choice"]


@dataclass(frozen=True, kw_only=True)
class GenerationConfig:
    """How text is searched for.

    Attributes:
        beams: hypotheses kept a clip; 1 is greedy search.
        length_penalty: a finished text scores its log-probability over (its tokens, the end token included) to this
            power; 0 favours short texts, 1 is the mean.
        max_new_tokens: tokens at most, the end token included, so 2 or more; null is what the model's ``max_tokens``
            leaves.
    """

    beams: int = 5
    length_penalty: float = 1.0
    max_new_tokens: int | None = None

    def __post_init__(self) -> None:
        if self.beams < 1:
            raise ValueError(f"generation.beams is {self.beams}; expected at least 1 (1 is greedy search)")
        if not self.length_penalty >= 0:
            raise ValueError(f"generation.length_penalty is {self.length_penalty}; expected 0 or more")
        if self.max_new_tokens is not None and self.max_new_tokens < 2:
            raise ValueError(
                f"generation.max_new_tokens is {self.max_new_tokens}; expected at least 2, a word and the end token"
            )


@dataclass(frozen=True, kw_only=True)
class EvaluationConfig:
    """What to evaluate on.

    Attributes:
        manifest: a ``.jsonl`` or ``.csv`` file, or a store of ``stoa prepare``.
        split: clips of it.
        questions: a ``.jsonl`` file, or a folder with one a split, for ``answering`` and ``multiple_choice``.
        question_types: questions of these types only; null is all.
        hard: folder of hard-set manifests (``<kind>.jsonl``), for ``retrieval``.
        top_k: candidates per query that the matching head re-ranks.
        dual_softmax: report retrieval with a dual softmax as well.
        baseline: evaluate the same architecture with random weights as well.
        generation: the search for captions and for answers that are said.
        decoder: of videos.
        decode_timeout_seconds: a video that takes longer counts as unreadable; 0 decodes without a process of its own.
        batch_size: videos encoded at once.
        num_workers: loader processes; 0 decodes in this one.
        view: what of a clip is seen; less than ``whole`` is a control.
    """

    manifest: str
    split: str = "test"
    questions: str | None = None
    question_types: list[str] | None = None
    hard: str | None = None
    top_k: int = 32
    dual_softmax: bool = False
    baseline: bool = True
    generation: GenerationConfig = field(default_factory=GenerationConfig)
    decoder: CpuDecoder = "auto"
    decode_timeout_seconds: float = 60.0
    batch_size: int = 16
    num_workers: int = 0
    view: View = "whole"

    def __post_init__(self) -> None:
        for name, least in (("top_k", 1), ("batch_size", 1), ("num_workers", 0)):
            if getattr(self, name) < least:
                raise ValueError(f"{name} is {getattr(self, name)}; expected at least {least}")
        if not self.decode_timeout_seconds >= 0:
            raise ValueError(f"decode_timeout_seconds is {self.decode_timeout_seconds}; expected 0 or more")


@dataclass(frozen=True, kw_only=True)
class ValidationConfig:
    """How weights are chosen: by the task's headline number on a split that is neither trained nor tested on.

    Attributes:
        split: of the manifest.
        held_out: so many clips of the training split, chosen by a hash of their ids, take the place of ``split`` and
            are not trained on; for data sets that have no validation split. 0 is none.
        top_k: candidates per query that the matching head re-ranks.
        generation: the search for captions and for answers that are said.
        batch_size: videos encoded at once.
    """

    split: str = "val"
    held_out: int = 0
    top_k: int = 32
    generation: GenerationConfig = field(default_factory=lambda: GenerationConfig(beams=1))
    batch_size: int = 16

    def __post_init__(self) -> None:
        for name, least in (("held_out", 0), ("top_k", 1), ("batch_size", 1)):
            if getattr(self, name) < least:
                raise ValueError(f"--validation.{name} is {getattr(self, name)}; expected at least {least}")


@dataclass(frozen=True, kw_only=True)
class FinetuneConfig:
    """A fine-tuning.

    Attributes:
        run: output_dir or checkpoint of the run to start from. Its model is taken over; it may have been trained with
            other objectives and on other data.
        task: what for. ``multiple_choice`` is trained as ``retrieval`` is.
        data: to train on.
        questions: a ``.jsonl`` file, or a folder with one a split, for ``answering``.
        keep_captions: the captions of all clips stand among the questions, so that the model does not forget how clips
            are described, and by the likelihood told apart; for answers that are said.
        max_answers: with ``objectives.answer``, choose among so many, the most frequent of training; null is all.
        num_frames: frames of a clip; null is that of ``run``.
        max_tokens: text length; null is that of ``run``. May be longer, as for paragraphs.
        epochs: passes over the clips, or the questions with what stands among them; null leaves it to
            ``training.max_steps``.
        objectives: ``answering`` chooses with ``answer`` and says its answers with ``plm``. ``plm_form`` and
            ``null_token`` are those of ``run``.
        training: how.
        validation: how weights are chosen.
    """

    run: str
    task: Task
    data: DataConfig = field(default_factory=DataConfig)
    questions: str | None = None
    keep_captions: bool = False
    max_answers: int | None = None
    num_frames: int | None = None
    max_tokens: int | None = None
    epochs: float | None = 5
    objectives: ObjectivesConfig = field(default_factory=ObjectivesConfig)
    training: TrainingConfig = field(default_factory=TrainingConfig)
    validation: ValidationConfig = field(default_factory=ValidationConfig)

    def __post_init__(self) -> None:
        if self.data.manifest is None:
            raise ValueError("--data.manifest is missing; fine-tuning needs data of its own")
        if (self.task == "answering") != (self.questions is not None):
            raise ValueError(
                f"--questions is {self.questions} and --task {self.task}; answering needs one, others none"
            )
        if self.questions is not None and self.data.captions != "one":
            raise ValueError(
                f"--data.captions is {self.data.captions!r} and --task answering, which reads questions; leave it out"
            )
        for name, least in (("max_answers", 1), ("num_frames", 1), ("max_tokens", 3)):
            value = getattr(self, name)
            if value is not None and value < least:
                raise ValueError(f"--{name} is {value}; expected at least {least}, or null")
        if self.epochs is not None and not self.epochs > 0:
            raise ValueError(f"--epochs is {self.epochs}; expected more than 0, or null for training.max_steps")
        if self.epochs is not None and self.training.max_steps != TrainingConfig.max_steps:
            raise ValueError(
                f"--epochs is {self.epochs} and --training.max_steps {self.training.max_steps}, and a run has one "
                "length; set epochs to null for the latter"
            )
        if self.validation.held_out and self.data.together > 1:
            raise ValueError(
                f"--validation.held_out is {self.validation.held_out} and --data.together {self.data.together}: clips "
                "held out leave gaps in the groups; name a --validation.split"
            )
        if self.data.split == self.validation.split and not self.validation.held_out:
            raise ValueError(
                f"--validation.split is {self.validation.split!r}, which is trained on; name another split"
            )
        said, chosen = self.objectives.plm > 0, self.objectives.answer > 0
        paired = self.objectives.vtc > 0 or self.objectives.vtm > 0
        if self.keep_captions and (self.task != "answering" or not said or paired):
            raise ValueError(
                f"--keep_captions is true, --task {self.task!r}, and under --objectives plm {self.objectives.plm}, vtc "
                f"{self.objectives.vtc} and vtm {self.objectives.vtm}; captions stand among questions, whose answers "
                "are said and which fit many clips: task answering, plm above 0, vtc and vtm 0"
            )
        if self.task == "answering" and said == chosen:
            raise ValueError(
                f"--objectives.answer is {self.objectives.answer} and --objectives.plm {self.objectives.plm}; this "
                "task takes one: answer chooses among the answers of training, plm says them"
            )
