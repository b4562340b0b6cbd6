"""Weights from elsewhere, loaded strictly."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import open_clip
import torch
from open_clip.constants import OPENAI_DATASET_MEAN, OPENAI_DATASET_STD
from torch import nn
from torch.nn import functional as F

from stoa.downloads import from_hub
from stoa.models.clip import Clip, architecture
from stoa.models.clip_formats import FOLDER_FILES, ClipWeights, is_weights_folder, names_of, read_clip, sizes
from stoa.models.config import BackboneConfig, ModelConfig
from stoa.models.video_language import FRAMEWISE, VideoLanguageModel
from stoa.shipped import SMALL


def initialize(model: VideoLanguageModel, init: str) -> str:
    """Start the towers, and the encoders copied from them, from pretrained weights; see :func:`load_clip`."""
    said = load_clip(model.clip, model.config.backbone, init)
    model.start_from_towers()
    return said


class Trained(NamedTuple):
    """A trained model to start another one from.

    Attributes:
        weights: all of it.
        config: of it.
        used_token_ids: what its language head predicts; none is all tokens.
        source: where it comes from, for messages.
    """

    weights: dict[str, torch.Tensor]
    config: ModelConfig
    used_token_ids: Sequence[int] | None
    source: str


def load_pretrained(model: VideoLanguageModel, trained: Trained) -> None:
    """Start a model from another that may have been trained for something else.

    The answer head may be new, and so may objects, their look, motion, relations, changes and map to words, actions
    with theirs, the grounding of words, and graph; frames may be more or fewer (their embeddings are interpolated in
    time), the text longer (more positions, from the text tower's) or shorter, and a ``used`` vocabulary may hold more
    tokens (whose biases start at 0).

    Raises:
        ValueError: it does not fit; the message names what.
    """
    source, there = trained.source, trained.config
    state = {name: x.float() for name, x in trained.weights.items() if not name.startswith("answer_head.")}
    towers = {name.removeprefix("clip."): tensor for name, tensor in state.items() if name.startswith("clip.")}
    advice = "give the values under model that it was trained with"
    load_strictly(model.clip, towers, source, advice)
    model.start_from_towers()
    own, parts = model.state_dict(), {name.split(".")[0] for name in state}
    new = {
        "answer_head",
        "objects",
        "trajectories",
        "look",
        "motion",
        "relations",
        "changes",
        "actions",
        "action_motion",
        "word_head",
        "verb_head",
        "grounding",
        "graph",
    } - parts
    state |= {name: tensor for name, tensor in own.items() if name.split(".")[0] in new}
    text = "fusion.text_positions"
    state[text] = torch.cat([state[text][: len(own[text])], own[text][len(state[text]) :]])
    if there.num_frames != model.config.num_frames:
        for name in ("objects.frame_embedding", "actions.frame_embedding", "graph.frame_embedding"):
            if name.split(".")[0] in parts and name in own:
                state[name] = _at_times(state[name], model.config.num_frames)
    _fit_video_side(model, state, own, there)
    head = model.lm_head
    if head.used_ids is not None and trained.used_token_ids is not None:
        classes = head.targets(torch.tensor(trained.used_token_ids))
        lost = [token for token, place in zip(trained.used_token_ids, classes.tolist(), strict=True) if place < 0]
        if lost:
            raise ValueError(f"token {lost[0]} is in the vocabulary of {source} and not in this model's")
        state["lm_head.bias"] = torch.zeros_like(own["lm_head.bias"]).index_copy(0, classes, state["lm_head.bias"])
    load_strictly(model, state, source, advice)


def _fit_video_side(
    model: VideoLanguageModel, state: dict[str, torch.Tensor], own: dict[str, torch.Tensor], there: ModelConfig
) -> None:
    """Positions, a row a token, and types, one a group with the text's last, of the fusion encoder: for this model's
    frames and groups of tokens; groups that are new keep their own."""
    positions, types = "fusion.video_positions", "fusion.type_embeddings"
    rows_of = dict(zip(there.group_sizes, state[positions].split([*there.group_sizes.values()]), strict=True))
    type_of = dict(zip(there.group_sizes, state[types], strict=False))
    sizes, num_frames = model.fusion.group_sizes, model.config.num_frames
    own_rows = own[positions].split([*sizes.values()])
    rows, kinds = [], []
    for index, name in enumerate(sizes):
        part = rows_of.get(name, own_rows[index])
        if name in rows_of and name in FRAMEWISE and there.num_frames != num_frames:
            part = _at_times(part.unflatten(0, (there.num_frames, -1)), num_frames).flatten(0, 1)
        rows.append(part)
        kinds.append(type_of.get(name, own[types][index]))
    state[positions], state[types] = torch.cat(rows), torch.stack([*kinds, state[types][-1]])


def _at_times(embedding_Tnw: torch.Tensor, num_frames: int) -> torch.Tensor:
    """Embeddings of frames, which lie in the middles of equal parts of a clip, at the times of more or fewer."""
    rows_nwT = embedding_Tnw.permute(1, 2, 0)
    return F.interpolate(rows_nwT, size=num_frames, mode="linear", align_corners=False).permute(2, 0, 1)


def load_clip(clip: Clip, config: BackboneConfig, init: str) -> str:
    """Put pretrained weights into the towers.

    A strict load cannot see a wrong activation. What a tag's record, the file or the configuration beside it tells of
    the training is compared with the architecture.

    Args:
        clip: the towers.
        config: the architecture they were built from.
        init: an open_clip pretrained tag, or a file or folder as :func:`stoa.models.clip_formats.read_clip` reads them.

    Returns:
        one line that says what was loaded.

    Raises:
        ValueError: neither a tag of this architecture nor weights; a missing or unexpected key, a wrong shape or
            activation, a value that is no number (the message names it); a tag that cannot be fetched.
    """
    path = locate(config, init)
    weights = read_clip(path)
    tag = path != Path(init)
    source = f"open_clip {config.name} / {init}" if tag else f"{path} (sha256 {weights.sha256})"
    require_trained_alike(config, f"--init {init}", weights.record)
    state = {
        name: x.reshape(clip.logit_scale.shape) if name == "logit_scale" else x for name, x in weights.state.items()
    }
    _require_size(clip, config, source, weights)
    load_strictly(clip, state, source, "choose the architecture they were made for with --model.backbone.name")
    for name, x in clip.state_dict().items():
        if not x.isfinite().all():
            raise ValueError(f"weights from {source}: {name} has values that are not finite; take them from elsewhere")
    unsaid = (
        "" if tag or "quick_gelu" in weights.record else f"; their activation, not told there, is {_activation(config)}"
    )
    return f"CLIP towers start from {source}{unsaid}"


def is_run(config: BackboneConfig, init: str) -> bool:
    """Whether what a user names can only be a run: it is a folder without weights in it, and no tag is called so."""
    path = Path(init)
    return path.is_dir() and not is_weights_folder(path) and init not in _tags(config)


def locate(config: BackboneConfig, init: str) -> Path:
    """The file or folder of weights; ``small`` is the model that comes with the package, and that of an open_clip tag
    is downloaded where it is not in Hugging Face's cache.

    Raises:
        ValueError: there is no such file nor such a tag for this architecture, the tag is of another activation or of
            other pixels, or its file cannot be had.
    """
    path = SMALL / "model.safetensors" if init == "small" else Path(init)
    return path if path.is_file() or is_weights_folder(path) else _fetch(config, init)


def _fetch(config: BackboneConfig, tag: str) -> Path:
    tags = _tags(config)
    if tag not in tags:
        if Path(tag).is_dir():
            raise ValueError(f"--init {tag}: a folder without weights of CLIP; expected {', '.join(FOLDER_FILES)}")
        raise ValueError(
            f"--init {tag!r} is neither a file nor a pretrained tag of {config.name}{_near(config, tag, tags)}"
        )
    record = open_clip.get_pretrained_cfg(config.name, tag)
    require_trained_alike(config, f"--init {tag!r}", {"quick_gelu": False, **record})
    repository, name = record["hf_hub"].rsplit("/", 1)
    names = [name] if name else ["open_clip_model.safetensors", "open_clip_pytorch_model.bin"]
    try:
        return from_hub(repository, names, instead="name a local file with --init FILE")
    except ValueError as error:
        raise ValueError(f"--init {tag!r}: the weights of {config.name}: {error}") from None


def require_trained_alike(config: BackboneConfig, source: str, record: Mapping[str, Any]) -> None:
    """What is on record of a training has to be so here.

    Args:
        config: the backbone.
        source: of the weights, for messages.
        record: ``quick_gelu``, and ``mean`` and ``std`` of pixels; each may be missing.

    Raises:
        ValueError: it is not.
    """
    ours = bool(architecture(config).get("quick_gelu"))
    if record.get("quick_gelu", ours) != ours:
        right = config.name.removesuffix("-quickgelu") + ("" if ours else "-quickgelu")
        advice = f"use --model.backbone.name {right}" if right in open_clip.list_models() else "choose another backbone"
        theirs = "GELU" if ours else "QuickGELU"
        raise ValueError(f"{source} was trained with {theirs}, {config.name} has the other activation; {advice}")
    for name, own in (("mean", OPENAI_DATASET_MEAN), ("std", OPENAI_DATASET_STD)):
        values = tuple(record.get(name) or own)
        if len(values) != len(own) or any(abs(a - b) > 1e-4 for a, b in zip(values, own, strict=True)):
            raise ValueError(
                f"{source} was trained on pixels with {name} {values}, here it is {tuple(own)}; choose another tag or "
                f"file of {config.name}"
            )


def load_strictly(module: nn.Module, state: dict[str, torch.Tensor], source: str, advice: str) -> None:
    """``load_state_dict`` that allows no difference.

    Args:
        module: to load.
        state: what.
        source: where it comes from, for the message.
        advice: what to do where it does not fit.

    Raises:
        ValueError: names the keys that are missing, unexpected or of another shape.
    """
    own = module.state_dict()
    missing, unexpected = sorted(own.keys() - state.keys()), sorted(state.keys() - own.keys())
    reshaped = [
        f"{key} {tuple(state[key].shape)} instead of {tuple(own[key].shape)}"
        for key in sorted(own.keys() & state.keys())
        if state[key].shape != own[key].shape
    ]
    problems = [
        f"{len(keys)} {kind}: {', '.join(keys[:3])}{', ...' if len(keys) > 3 else ''}"
        for kind, keys in (("missing", missing), ("unexpected", unexpected), ("of another shape", reshaped))
        if keys
    ]
    if problems:
        raise ValueError(f"weights from {source} do not fit this model ({'; '.join(problems)}); {advice}")
    module.load_state_dict(state)


def _tags(config: BackboneConfig) -> list[str]:
    return open_clip.list_pretrained_tags_by_model(config.name)


def _activation(config: BackboneConfig) -> str:
    return "QuickGELU" if architecture(config).get("quick_gelu") else "GELU"


def _near(config: BackboneConfig, tag: str, tags: list[str]) -> str:
    """What may have been meant, for a message."""
    path = Path(tag)
    if path.name != tag or path.suffix in (".pt", ".pth", ".bin", ".safetensors"):
        beside = [file.name for file in path.parent.iterdir()] if path.parent.is_dir() else []
        near = difflib.get_close_matches(path.name, beside, n=1)
        return f"; did you mean {path.parent / near[0]}?" if near else ""
    near, others = difflib.get_close_matches(tag, tags, n=1), open_clip.list_pretrained_models_by_tag(tag)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    if others and config.name not in others:
        hint = f"; it is one of {', '.join(others[:6])}{', ...' if len(others) > 6 else ''}"
    return f"{hint} (tags: {', '.join(tags) or 'none'})"


def _require_size(clip: Clip, config: BackboneConfig, source: str, weights: ClipWeights) -> None:
    theirs, own = sizes(weights.state), sizes(clip.state_dict())
    if theirs is None or own is None or theirs == own:
        return  # a difference is named key by key
    quick = weights.record.get("quick_gelu", False)
    names = [
        name for name in names_of(theirs) if bool(architecture(BackboneConfig(name=name)).get("quick_gelu")) == quick
    ]
    raise ValueError(
        f"weights from {source} are of {names[0] if names else 'a CLIP'} ({theirs}), and model.backbone.name is "
        f"{config.name} ({own}); "
        + (f"give --model.backbone.name {names[0]}" if names else "choose the architecture they were made for")
    )
