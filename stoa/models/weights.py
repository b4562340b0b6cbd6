"""Weights from elsewhere, loaded strictly."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import open_clip
import torch
from open_clip.constants import OPENAI_DATASET_MEAN, OPENAI_DATASET_STD
from open_clip.factory import load_state_dict
from torch import nn
from torch.nn import functional as F

from stoa.files import sha256
from stoa.models.clip import BackboneConfig, Clip, architecture
from stoa.models.eva import plain_state
from stoa.models.video_language import FRAMEWISE, ModelConfig, VideoLanguageModel


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

    The answer head may be new, and so may objects, their motion and map to words, actions and graph; frames may be more
    or fewer (their embeddings are interpolated in time), the text longer (more positions, from the text tower's) or
    shorter, and a ``used`` vocabulary may hold more tokens (whose biases start at 0).

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
    new = {"answer_head", "objects", "trajectories", "motion", "actions", "word_head", "graph"} - parts
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

    A strict load cannot see a wrong activation; for an open_clip tag its own record of it is compared
    with the architecture's.

    Args:
        clip: the towers.
        config: the architecture they were built from.
        init: an open_clip pretrained tag, or a checkpoint file (``.pt``, ``.bin``, ``.safetensors``; an
            open_clip training checkpoint, a bare state dict, or OpenAI's archive).

    Returns:
        one line that says what was loaded.

    Raises:
        ValueError: neither a tag of this architecture nor a file; a missing or unexpected key, or a wrong
            shape (the message names it); a wrong activation.
    """
    path = Path(init)
    if path.is_file():
        state = _read_state(path)
        source = f"{path} (sha256 {sha256(path)[:12]})"
    else:
        state = _download(config, init)
        source = f"open_clip {config.name} / {init}"
    state = plain_state(state)
    if "logit_scale" in state:
        state["logit_scale"] = state["logit_scale"].reshape(clip.logit_scale.shape)
    load_strictly(clip, state, source, "choose the architecture they were made for with --model.backbone.name")
    return f"CLIP towers start from {source}"


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


def _read_state(path: Path) -> dict[str, torch.Tensor]:
    try:
        state = load_state_dict(str(path), weights_only=True)
    except Exception as error:  # every loader behind it has exceptions of its own
        raise ValueError(f"--init {path}: not a checkpoint of tensors ({' '.join(str(error).split())[:200]})") from None
    # open_clip stores OpenAI's archives with these three beside the weights.
    for key in ("input_resolution", "context_length", "vocab_size"):
        state.pop(key, None)
    if "clip.visual.conv1.weight" in state:  # a checkpoint of ours: its towers
        state = {key.removeprefix("clip."): value for key, value in state.items() if key.startswith("clip.")}
    odd = [key for key, value in state.items() if not isinstance(value, torch.Tensor)]
    if odd:
        raise ValueError(f"--init {path}: {odd[0]!r} is not a tensor; expected a state dict of weights")
    return {key: value.float() for key, value in state.items()}


def _download(config: BackboneConfig, tag: str) -> dict[str, torch.Tensor]:
    tags = open_clip.list_pretrained_tags_by_model(config.name)
    if tag not in tags:
        raise ValueError(
            f"--init {tag!r} is neither a file nor a pretrained tag of {config.name} (tags: {tags or 'none'})"
        )
    record = open_clip.get_pretrained_cfg(config.name, tag)
    quick = bool(architecture(config).get("quick_gelu"))
    if bool(record.get("quick_gelu")) != quick:
        right = config.name.removesuffix("-quickgelu") + ("-quickgelu" if record.get("quick_gelu") else "")
        raise ValueError(
            f"--init {tag!r} was trained with {'QuickGELU' if not quick else 'GELU'}, {config.name} has the other "
            f"activation; use --model.backbone.name {right}"
        )
    for name, ours in (("mean", OPENAI_DATASET_MEAN), ("std", OPENAI_DATASET_STD)):
        theirs = record.get(name) or ours
        if tuple(theirs) != tuple(ours):
            raise ValueError(
                f"--init {tag!r} was trained on pixels with {name} {tuple(theirs)}, here it is {tuple(ours)}; choose "
                f"another tag of {config.name}"
            )
    try:
        return open_clip.create_model(config.name, pretrained=tag).float().state_dict()
    except Exception as error:  # of the download, whose exceptions are many
        reason = " ".join(str(error).split())[:200]
        raise ValueError(
            f"--init {tag!r}: the weights of {config.name} could not be fetched ({reason}); name a local file instead"
        ) from None
