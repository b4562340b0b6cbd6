"""How a model is configured. Needs no torch, so that commands can tell of their options at once."""

from __future__ import annotations

import importlib.util
import re
import sys
from collections.abc import Collection
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

_FAST_GELU = {"approximate": "tanh"}  # a third faster than erf on a CPU


_SMALL_TEXT = {
    "context_length": 32,
    "vocab_size": 49408,
    "width": 128,
    "heads": 4,
    "layers": 4,
    "act_kwargs": _FAST_GELU,
}


#: Architectures of ours beside open_clip's, in its format, that train on a CPU in minutes: a step of ``stoa-small-16``
#: costs as much as one of ``stoa-small``, whose tower is narrower and sees four times the patches.
PRESETS: dict[str, dict[str, Any]] = {
    "stoa-small": {
        "embed_dim": 128,
        "vision_cfg": {
            "image_size": 64,
            "patch_size": 8,
            "width": 96,
            "layers": 3,
            "head_width": 32,
            "act_kwargs": _FAST_GELU,
        },
        "text_cfg": _SMALL_TEXT,
    },
    "stoa-small-16": {
        "embed_dim": 128,
        "vision_cfg": {
            "image_size": 64,
            "patch_size": 16,
            "width": 128,
            "layers": 4,
            "head_width": 32,
            "act_kwargs": _FAST_GELU,
        },
        "text_cfg": _SMALL_TEXT,
    },
    "stoa-tiny": {
        "embed_dim": 32,
        "vision_cfg": {"image_size": 32, "patch_size": 8, "width": 48, "layers": 2, "head_width": 16},
        "text_cfg": {"context_length": 32, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 2},
    },
}


EdgeMode = Literal["multiply", "log_bias", "mask_only"]


Pool = Literal["rowcol", "mean", "none"]


MatchBy = Literal["ends", "likelihood"]
"""What tells whether a text belongs to a clip; see :class:`ModelConfig`."""
PlmForm = Literal["one_pass", "two_stream"]
"""Where the model has learned to predict the next token: see :func:`stoa.objectives.plm.plm_loss`."""


Recomputable = Literal["towers", "graph", "fusion"]
"""Parts of the model whose activations the backward pass can compute again."""


RECOMPUTABLE: tuple[Recomputable, ...] = get_args(Recomputable)


_MOST = {
    **dict.fromkeys(("layers", "tap_from_top", "global_repeats", "contrast"), 256),
    **dict.fromkeys(("num_trajectories", "max_boxes", "num_tokens", "num_frames", "max_tokens"), 10_000),
    "num_answers": 1_000_000,
}
"""Beyond what anybody trains: a configuration may be of a file from elsewhere, and is built before its weights are
looked at."""


@dataclass(frozen=True, kw_only=True)
class BackboneConfig:
    """Which CLIP.

    Attributes:
        name: an open_clip architecture, or one of ``PRESETS``. The activation is part of it:
            OpenAI's weights need ``ViT-B-16-quickgelu``, LAION's ``ViT-B-16``.
    """

    name: str = "ViT-B-16-quickgelu"

    def __post_init__(self) -> None:
        if self.name not in PRESETS and not _is_of_open_clip(self.name):
            raise ValueError(
                f"model.backbone.name {self.name!r} is neither one of {sorted(PRESETS)} nor an open_clip architecture "
                "(python -c 'import open_clip; print(open_clip.list_models())' lists them)"
            )


@dataclass(frozen=True, kw_only=True)
class ObjectConfig:
    """Objects and trajectories.

    Attributes:
        num_trajectories: trajectories kept of a clip, the labels of highest summed confidence (N); 0 leaves the
            object module out.
        max_boxes: detected boxes read per frame, the most confident (K).
        layers: of the trajectory encoder, at most the depth of the vision tower they are initialised from.
        tap_from_top: the patch tokens pooled are the output of vision block ``depth - tap_from_top``.
        detach_tap: let no gradient through the tap.
        residual: boxes enter the trajectory encoder as the patches under them, to which the MLP adds nothing at first,
            and its [CLS] begins with the mean of the frames', so that a fresh token is of what CLIP's blocks know, if
            ``layers`` is ``tap_from_top``; the paper has neither.
        look: add to each trajectory token an embedding of the mean of what the patches under its boxes hold, which the
            paper has not. A fresh token is nearly the same whatever it shows.
        motion: add to each trajectory token an embedding of the way its boxes go, which the paper has not. It otherwise
            shows motion by the order of its boxes alone, of which hardly anything is left in its token.
        relations: add to each trajectory token an embedding of how it goes with respect to other ones, towards them,
            away from them or around them, which the paper has not.
        changes: add to each trajectory token an embedding of how its look changes over time, such as lighter or darker,
            which the paper has not.
        word_head: what OTA draws to a noun, and ``grounding`` compares with words, is a linear map of the trajectory
            token, at first the identity, which the paper has not. The token itself may then hold what no noun says.
        grounding: give each text token, where it enters the fusion encoder, the trajectories that it is closest to by
            the cosine of OTA, which the paper has not. Attention otherwise has to find out anew which trajectory a noun
            means.
    """

    num_trajectories: int = 20
    max_boxes: int = 10
    layers: int = 2
    tap_from_top: int = 2
    detach_tap: bool = False
    residual: bool = False
    look: bool = False
    motion: bool = False
    relations: bool = False
    changes: bool = False
    word_head: bool = False
    grounding: bool = False

    @property
    def tells_motion(self) -> bool:
        """Whether trajectory tokens say what the trajectory does."""
        return bool(self.num_trajectories) and (self.motion or self.relations or self.changes)

    def __post_init__(self) -> None:
        for name, least in (("num_trajectories", 0), ("max_boxes", 0), ("layers", 1), ("tap_from_top", 0)):
            if getattr(self, name) < least:
                raise ValueError(f"model.objects.{name} is {getattr(self, name)}; expected at least {least}")
            if getattr(self, name) > _MOST[name]:
                raise ValueError(f"model.objects.{name} is {getattr(self, name)}; expected at most {_MOST[name]}")
        if self.num_trajectories and not self.max_boxes:
            raise ValueError(
                f"model.objects.max_boxes is 0 and num_trajectories {self.num_trajectories}: trajectories are made of "
                "boxes; raise max_boxes, or set num_trajectories to 0 to train without objects"
            )


@dataclass(frozen=True, kw_only=True)
class ActionConfig:
    """Action tokens.

    Attributes:
        num_tokens: action tokens of a clip (M); 0 leaves the action module out.
        layers: of the encoder over frames, at most the depth of the vision tower they are initialised from.
        tap_from_top: the patch tokens attended to are the output of vision block ``depth - tap_from_top``.
        detach_tap: let no gradient through the tap.
        motion: add to each action token what queries of its own gather of the motion, relations and changes of all
            trajectories, which the paper has not.
        word_head: what ASP draws to a verb is a linear map of the action token, as ``word_head`` of objects is.
        grounding: give each text token the action tokens that it is closest to by the cosine of ASP, as ``grounding``
            of objects does.
    """

    num_tokens: int = 4
    layers: int = 2
    tap_from_top: int = 1
    detach_tap: bool = False
    motion: bool = False
    word_head: bool = False
    grounding: bool = False

    def __post_init__(self) -> None:
        for name, least in (("num_tokens", 0), ("layers", 1), ("tap_from_top", 0)):
            if getattr(self, name) < least:
                raise ValueError(f"model.actions.{name} is {getattr(self, name)}; expected at least {least}")
            if getattr(self, name) > _MOST[name]:
                raise ValueError(f"model.actions.{name} is {getattr(self, name)}; expected at most {_MOST[name]}")


@dataclass(frozen=True, kw_only=True)
class GraphConfig:
    """The graph module.

    Attributes:
        layers: of the module; 0 leaves it out.
        reach: frames on either side that a patch sees; 0 its own alone, null all.
        threshold: least cosine of two patches that are joined by an edge.
        edge_mode: what the cosine of an edge does to the logit of attention: ``multiply`` it, as released, add its
            logarithm (``log_bias``), or nothing but keep the edge (``mask_only``).
        pool: what leaves a frame beside its [CLS]: ``rowcol`` the maxima of each column and row of its patches,
            ``mean`` one token, ``none`` all of them.
        contrast: how many times a token's difference from its mean over the frames is added to it when it leaves.
            What all frames show alike is most of a token, and hides from attention what moves. 0 is the paper.
        global_repeats: how often the block over the [CLS] tokens of the frames is applied.
        residual: normalise before the graph attention and add what it gives, zero at first, so that a fresh module
            leaves CLIP's features as they are. The release replaces the patches.
        positions: ``sincos``, or fixed ``random`` vectors as in the release.
        tap_from_top: it reads the output of vision block ``depth - tap_from_top``.
        detach_tap: let no gradient through the tap.
    """

    layers: int = 0
    reach: int | None = 1
    threshold: float = 0.5
    edge_mode: EdgeMode = "multiply"
    pool: Pool = "rowcol"
    contrast: float = 0.0
    global_repeats: int = 1
    residual: bool = True
    positions: Literal["sincos", "random"] = "sincos"
    tap_from_top: int = 1
    detach_tap: bool = False

    def __post_init__(self) -> None:
        for name, least in (("layers", 0), ("contrast", 0), ("global_repeats", 1), ("tap_from_top", 0)):
            if getattr(self, name) < least:
                raise ValueError(f"model.graph.{name} is {getattr(self, name)}; expected at least {least}")
            if getattr(self, name) > _MOST[name]:
                raise ValueError(f"model.graph.{name} is {getattr(self, name)}; expected at most {_MOST[name]}")
        if self.reach is not None and self.reach < 0:
            raise ValueError(f"model.graph.reach is {self.reach}; expected 0 or more, or null for all frames")

    def tokens_of_frame(self, grid_hw: tuple[int, int]) -> int:
        """Tokens that leave a frame (R)."""
        height, width = grid_hw
        return 1 + {"rowcol": height + width, "mean": 1, "none": height * width}[self.pool]


@dataclass(frozen=True, kw_only=True)
class FusionConfig:
    """The fusion encoder.

    Attributes:
        layers: blocks, at most the depth of the text tower they are initialised from.
    """

    layers: int = 6

    def __post_init__(self) -> None:
        if self.layers < 1:
            raise ValueError(f"model.fusion.layers is {self.layers}; expected at least 1")
        if self.layers > _MOST["layers"]:
            raise ValueError(f"model.fusion.layers is {self.layers}; expected at most {_MOST['layers']}")


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """The model.

    Attributes:
        backbone: which CLIP.
        joint_last_blocks: vision blocks, the last ones, in which the tokens of all frames see each other.
        objects: object features and trajectories.
        actions: action tokens.
        graph: the spatio-temporal graph of patches.
        fusion: the fusion encoder.
        num_frames: frames sampled from a clip (T).
        max_tokens: text length with start and end token (L); longer captions are cut.
        lm_vocab: ``full`` predicts over all BPE entries; ``used`` over those that occur in the training
            captions (a head over all 49,408 would cost more than a small model).
        num_answers: classes of an answer head for question answering; 0 is none.
        match_by: what tells whether a text belongs to a clip. ``ends``: the fused outputs at the pooled video and at
            the end of the text, as in the paper. ``likelihood``: these, of a pass in which text is causal, and beside
            them how likely the language head finds the text, which it then teaches: matching knows at once what PLM
            knows. The language head reads four texts a clip, not one.
        activation_checkpointing: parts whose activations are not kept but computed again in the backward pass:
            ``towers``, ``graph``, ``fusion``; true is all and false none. ``auto`` is as few as the memory of the GPU
            asks for, and without a GPU all.
    """

    backbone: BackboneConfig = field(default_factory=BackboneConfig)
    joint_last_blocks: int = 0
    objects: ObjectConfig = field(default_factory=ObjectConfig)
    actions: ActionConfig = field(default_factory=ActionConfig)
    graph: GraphConfig = field(default_factory=GraphConfig)
    fusion: FusionConfig = field(default_factory=FusionConfig)
    num_frames: int = 12
    max_tokens: int = 32
    lm_vocab: Literal["full", "used"] = "full"
    num_answers: int = 0
    match_by: MatchBy = "ends"
    activation_checkpointing: Literal["auto"] | bool | tuple[Recomputable, ...] = False

    def __post_init__(self) -> None:
        for name in ("num_frames", "max_tokens", "num_answers"):
            if getattr(self, name) > _MOST[name]:
                raise ValueError(f"model.{name} is {getattr(self, name)}; expected at most {_MOST[name]}")
        if self.num_frames < 1:
            raise ValueError(f"model.num_frames is {self.num_frames}; expected at least 1")
        if self.max_tokens < 3:
            raise ValueError(f"model.max_tokens is {self.max_tokens}; expected at least 3 (start, a word, end)")
        if self.joint_last_blocks < 0:
            raise ValueError(f"model.joint_last_blocks is {self.joint_last_blocks}; expected 0 or more")
        if self.num_answers < 0:
            raise ValueError(f"model.num_answers is {self.num_answers}; expected 0 (no answer head) or more")
        if self.actions.num_tokens and self.actions.motion and not self.objects.tells_motion:
            raise ValueError(
                "model.actions.motion is true and no trajectory says how it moves; set one of model.objects.motion, "
                "relations and changes to true, with num_trajectories above 0"
            )

    @property
    def num_boxes(self) -> int:
        """Boxes per frame (K) that the model reads."""
        return self.objects.max_boxes if self.objects.num_trajectories else 0

    @property
    def grounded_groups(self) -> tuple[str, ...]:
        """Video-side groups whose tokens are given to words that are close to them."""
        on = {
            "objects": self.objects.grounding and self.objects.num_trajectories,
            "actions": self.actions.grounding and self.actions.num_tokens,
        }
        return tuple(name for name, is_on in on.items() if is_on)

    @property
    def group_sizes(self) -> dict[str, int]:
        """Tokens of each video-side group of the fusion encoder, in order."""
        from stoa.models.clip import grid_hw  # of open_clip's towers

        sizes = {
            "frames": self.num_frames,
            "pooled": 1,
            "objects": self.objects.num_trajectories,
            "actions": self.actions.num_tokens,
            "graph": self.num_frames * self.graph.tokens_of_frame(grid_hw(self.backbone)) if self.graph.layers else 0,
        }
        return {name: size for name, size in sizes.items() if size}


def recomputed_parts(value: bool | Collection[Recomputable]) -> tuple[Recomputable, ...]:
    """What a value of ``activation_checkpointing`` other than ``auto`` says."""
    if isinstance(value, bool):
        return RECOMPUTABLE if value else ()
    return tuple(part for part in RECOMPUTABLE if part in value)


def _is_of_open_clip(name: str) -> bool:
    """As ``open_clip.list_models`` has it, or where that is not imported yet, which takes seconds: a file of that name
    in its package."""
    open_clip = sys.modules.get("open_clip")
    if open_clip is not None and hasattr(open_clip, "list_models"):
        return name in open_clip.list_models()
    found = importlib.util.find_spec("open_clip")
    places = () if found is None else found.submodule_search_locations or ()
    named = re.fullmatch(r"[\w.-]+", name) is not None
    return named and any((Path(place) / "model_configs" / f"{name}.json").is_file() for place in places)
