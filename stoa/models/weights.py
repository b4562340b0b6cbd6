"""Weights from elsewhere, loaded strictly."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import open_clip
import torch
from open_clip.factory import load_state_dict
from torch import nn

from stoa.files import sha256
from stoa.models.clip import BackboneConfig, Clip, architecture
from stoa.models.fusion import starting_positions
from stoa.models.video_language import VideoLanguageModel

Parts = Literal["towers", "all"]
"""What of a model starts from a checkpoint."""


def initialize(model: VideoLanguageModel, init: str, parts: Parts = "towers") -> str:
    """Start the towers, and the encoders copied from them, from pretrained weights; see :func:`load_clip`.

    Args:
        model: to start.
        init: see :func:`load_clip`.
        parts: ``all`` takes the fusion encoder and the heads as well, from a checkpoint of ours whose groups of tokens
            are the first of this model's: of one without objects for one with them.

    Raises:
        ValueError: see :func:`load_clip`; with ``all`` also for what does not fit.
    """
    said = load_clip(model.clip, model.config.backbone, init)
    model.start_from_towers()
    if parts == "all":
        _start_fusion(model, init)
        said = said.replace("CLIP towers start", "all that the checkpoint holds starts", 1)
    return said


def _start_fusion(model: VideoLanguageModel, init: str) -> None:
    path, own = Path(init), model.state_dict()
    loaded = _load(path) if path.is_file() else {}
    if "clip.visual.conv1.weight" not in loaded:
        raise ValueError(f"--init_parts all needs a checkpoint of ours, which --init {init} is not; pass towers")
    new = {name: tensor for name, tensor in own.items() if name.split(".")[0] in ("objects", "trajectories", "actions")}
    state = new | loaded
    # One row a token or group, and the text's type last: those of new groups keep theirs.
    tokens, types = "fusion.video_positions", "fusion.type_embeddings"
    groups = len(loaded[types]) - 1
    if len(own[tokens]) - len(loaded[tokens]) == sum(list(model.fusion.group_sizes.values())[groups:]):
        state[tokens] = torch.cat([loaded[tokens], own[tokens][len(loaded[tokens]) :]])
        state[types] = torch.cat([loaded[types][:groups], own[types][groups:-1], loaded[types][-1:]])
    load_strictly(model, state, init)


def load_pretrained(
    model: VideoLanguageModel, weights: dict[str, torch.Tensor], used_token_ids: Sequence[int] | None, source: str
) -> None:
    """Start a model from the weights of another that may have been trained for something else.

    The answer head may be new, the text longer (more positions, from the text tower's), and a ``used`` vocabulary may
    hold more tokens (whose biases start at 0).

    Args:
        model: to start.
        weights: of the other.
        used_token_ids: what the other's language head predicts; none is all tokens.
        source: where they come from, for the message.

    Raises:
        ValueError: they do not fit; the message names what.
    """
    state, own = {name: tensor.float() for name, tensor in weights.items()}, model.state_dict()
    state = {name: tensor for name, tensor in state.items() if not name.startswith("answer_head.")}
    state |= {name: tensor for name, tensor in own.items() if name.startswith("answer_head.")}
    positions = "fusion.text_positions"
    if positions in state and len(state[positions]) < len(own[positions]):
        towers = starting_positions(state["clip.positional_embedding"][: len(own[positions])])
        state[positions] = torch.cat([state[positions], towers[len(state[positions]) :]])
    head = model.lm_head
    if head.used_ids is not None and used_token_ids is not None:
        classes = head.targets(torch.tensor(used_token_ids))
        lost = [token for token, place in zip(used_token_ids, classes.tolist(), strict=True) if place < 0]
        if lost:
            raise ValueError(f"token {lost[0]} is in the vocabulary of {source} and not in this model's")
        state["lm_head.bias"] = torch.zeros_like(own["lm_head.bias"]).index_copy(0, classes, state["lm_head.bias"])
    load_strictly(model, state, source)


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
    if "logit_scale" in state:
        state["logit_scale"] = state["logit_scale"].reshape(clip.logit_scale.shape)
    load_strictly(clip, state, source)
    return f"CLIP towers start from {source}"


def load_strictly(module: nn.Module, state: dict[str, torch.Tensor], source: str) -> None:
    """``load_state_dict`` that allows no difference.

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
        raise ValueError(
            f"weights from {source} do not fit this model ({'; '.join(problems)}); "
            "choose the architecture they were made for with --model.backbone.name"
        )
    module.load_state_dict(state)


def _load(path: Path) -> dict[str, torch.Tensor]:
    try:
        return dict(load_state_dict(str(path), weights_only=True))
    except Exception as error:  # every loader behind it has exceptions of its own
        raise ValueError(f"--init {path}: not a checkpoint of tensors ({' '.join(str(error).split())[:200]})") from None


def _read_state(path: Path) -> dict[str, torch.Tensor]:
    state = _load(path)
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
    try:
        return open_clip.create_model(config.name, pretrained=tag).float().state_dict()
    except Exception as error:  # of the download, whose exceptions are many
        reason = " ".join(str(error).split())[:200]
        raise ValueError(
            f"--init {tag!r}: the weights of {config.name} could not be fetched ({reason}); name a local file instead"
        ) from None
