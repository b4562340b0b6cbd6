"""Values that do nothing unless others are set: which need what, and what is said where they do not have it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

Values = Mapping[str, Any]
"""By dotted name."""


class Need(NamedTuple):
    """What values need to do something.

    Attributes:
        keys: dotted names, apart by spaces; ``group.*`` is all of a group but what ``on`` names.
        on: dotted names of what it depends on.
        holds: whether their values are such that ``keys`` do something.
        remedy: what to do other than leaving the value out.
    """

    keys: str
    on: str
    holds: Callable[..., bool]
    remedy: str = ""

    def covers(self, key: str) -> bool:
        return key not in self.on.split() and any(
            key == name or (name.endswith(".*") and key.startswith(name[:-1])) for name in self.keys.split()
        )


class Idle(NamedTuple):
    """A value that does nothing, the values that make it so, in words, and what to do about it."""

    key: str
    value: Any
    because: str
    remedy: str

    def refusal(self, where: str) -> str:
        """For a value given ``where``."""
        remedy = f", or {self.remedy}" if self.remedy else ""
        return f"{where} is {_shown(self.value)} and does nothing: {self.because}; leave it out{remedy}"


def idle(values: Values, defaults: Values, needs: tuple[Need, ...]) -> Iterator[Idle]:
    """Values other than their defaults that do nothing. What a need depends on and is not among ``values`` is met."""
    for key, value in values.items():
        if key not in defaults or value == defaults[key]:
            continue
        for need in needs:
            on = need.on.split()
            if need.covers(key) and all(name in values for name in on) and not need.holds(*(values[k] for k in on)):
                because = " and ".join(f"{name} is {_shown(values[name])}" for name in on)
                yield Idle(key, value, because, need.remedy)
                break


def _shown(value: Any) -> str:
    if value is None or isinstance(value, bool):
        return "null" if value is None else str(value).lower()
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(_shown, value))}]"
    return f"{value:g}" if isinstance(value, float) else str(value)


def _any(*values: Any) -> bool:
    return any(values)


_SAID = ("captioning", "answering")

OBJECTIVES = (
    Need("objectives.csal.*", "objectives.csal.share", _any, "raise that"),
    Need("objectives.vtc_smoothing", "objectives.vtc", _any),
    Need(
        "objectives.vtc_smoothing",
        "objectives.csal.share objectives.csal.from_step",
        lambda share, at: not share or at > 0,
        "set objectives.csal.smoothing",
    ),
    Need("objectives.vtm_hard_share objectives.vtm_ramp_steps", "objectives.vtm", _any),
    Need("objectives.vtm_ramp_steps", "objectives.vtm_hard_share", _any),
    Need("objectives.mlm_kept_share", "objectives.mlm", _any),
    Need("objectives.plm_form objectives.plm_prefix", "objectives.plm", _any),
    Need("objectives.align_loss", "objectives.ota objectives.asp", _any),
    Need("objectives.null_token", "objectives.ota objectives.asp", _any),
    Need("objectives.pad_null", "objectives.asp", _any),
)
TRAINING = (Need("training.spike_rollbacks", "training.spike_factor", _any),)
PRETRAINING = (
    Need("model.objects.*", "model.objects.num_trajectories", _any),
    Need("model.actions.*", "model.actions.num_tokens", _any),
    Need("model.objects.word_head", "objectives.ota model.objects.grounding", _any),
    Need("model.actions.word_head", "objectives.asp model.actions.grounding", _any),
    Need(
        "model.objects.grounding model.actions.grounding",
        "objectives.vtm objectives.mlm objectives.plm objectives.answer",
        _any,
    ),
    Need("model.graph.*", "model.graph.layers", _any, "1 puts the graph in"),
    Need("model.num_answers", "objectives.answer", _any, "stoa finetune makes the head that answering needs"),
    Need("training.optim.objects_lr", "model.objects.num_trajectories model.actions.num_tokens", _any),
    *TRAINING,
    *OBJECTIVES,
)
_SEARCH = "generation.beams generation.length_penalty generation.max_new_tokens"
FINETUNING = (
    Need("max_answers", "objectives.answer", _any),
    Need("data.together", "task", lambda task: task != "answering"),
    Need("validation.split", "validation.held_out", lambda held_out: not held_out),
    Need("validation.top_k", "task", lambda task: task == "retrieval"),
    Need("validation.generation.*", "task", lambda task: task in _SAID),
    Need("validation.generation.*", "task objectives.plm", lambda task, plm: task != "answering" or plm > 0),
    Need("validation.generation.length_penalty", "validation.generation.beams", lambda beams: beams > 1),
    *TRAINING,
    *OBJECTIVES,
)
EVALUATION = (
    Need("question_types", "questions", _any),
    Need("generation.length_penalty", "generation.beams", lambda beams: beams > 1),
    Need(
        f"run hard top_k dual_softmax baseline decoder decode_timeout_seconds batch_size num_workers view num_frames "
        f"max_tokens {_SEARCH}",
        "predictions",
        lambda predictions: predictions is None,
    ),
)
EVALUATION_OF_TASK = (
    Need("questions question_types", "task", lambda task: task in ("answering", "multiple_choice")),
    Need("hard top_k dual_softmax baseline", "task", lambda task: task == "retrieval"),
    Need(_SEARCH, "task", lambda task: task in _SAID),
)
PREPARATION = (
    Need("store.frames store.jpeg_quality", "stores", lambda stores: "frames" in stores),
    Need("store.gop store.crf", "stores", lambda stores: "video" in stores),
    Need("store.* detections.* timeout_seconds engine", "stores", lambda stores: bool(stores)),
)
ABLATION = (
    Need("only workers", "list", lambda listed: not listed),
    Need("only workers", "tables", lambda tables: not tables),
    Need("list", "tables", lambda tables: not tables),
)
EXPLANATION = (
    Need("split", "clip", lambda clip: clip is None),
    Need("clip split", "manifest", _any, "give --manifest"),
    Need("detections spacy", "manifest", lambda manifest: manifest is None),
)
