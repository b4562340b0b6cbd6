"""The forms in which people have CLIP's weights, under the names of open_clip.

Shape legend: P patch side in pixels.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import open_clip
import torch

from stoa.files import sha256
from stoa.models.compact import restored
from stoa.models.eva import plain_state
from stoa.tensor_files import holds_torchscript, read_tensors
from stoa.torchscript import source

FOLDER_FILES = (
    *("open_clip_model.safetensors", "open_clip_pytorch_model.safetensors", "open_clip_pytorch_model.bin"),
    *("model.safetensors.index.json", "model.safetensors", "pytorch_model.bin.index.json", "pytorch_model.bin"),
)
"""Weights in a folder as it is downloaded, the first that is there counts."""

_HF_NAMES = {
    "text_model.embeddings.token_embedding.weight": "token_embedding.weight",
    "text_model.embeddings.position_embedding.weight": "positional_embedding",
    "text_model.final_layer_norm.weight": "ln_final.weight",
    "text_model.final_layer_norm.bias": "ln_final.bias",
    "text_projection.weight": "text_projection",
    "vision_model.embeddings.class_embedding": "visual.class_embedding",
    "vision_model.embeddings.patch_embedding.weight": "visual.conv1.weight",
    "vision_model.embeddings.position_embedding.weight": "visual.positional_embedding",
    "vision_model.pre_layrnorm.weight": "visual.ln_pre.weight",
    "vision_model.pre_layrnorm.bias": "visual.ln_pre.bias",
    "vision_model.post_layernorm.weight": "visual.ln_post.weight",
    "vision_model.post_layernorm.bias": "visual.ln_post.bias",
    "visual_projection.weight": "visual.proj",
    "logit_scale": "logit_scale",
}
_HF_TOWERS = {"text_model": "transformer.resblocks", "vision_model": "visual.transformer.resblocks"}
_HF_PARTS = {
    "layer_norm1": "ln_1",
    "self_attn.out_proj": "attn.out_proj",
    "layer_norm2": "ln_2",
    "mlp.fc1": "mlp.c_fc",
    "mlp.fc2": "mlp.c_proj",
}
_HF_QUICK_GELU = {"quick_gelu": True, "gelu": False}
# Of OpenAI's archives: three numbers, and the causal mask that the blocks of their text tower keep.
_NO_WEIGHTS = re.compile(r"input_resolution|context_length|vocab_size|(.+\.)?attn_mask")


class ClipWeights(NamedTuple):
    """What a file or a folder holds.

    Attributes:
        state: by open_clip's names, in the types of the file.
        record: how they were trained, as far as it is told: ``quick_gelu``, ``mean`` and ``std`` of pixels.
        sha256: first digits of that of each file, for messages.
    """

    state: dict[str, torch.Tensor]
    record: dict[str, Any]
    sha256: str


class Sizes(NamedTuple):
    """By which backbones differ. ``side`` is that of a frame, ``patch`` of a patch, both in pixels."""

    patch: int
    width: int
    layers: int
    side: int
    text_width: int

    def __str__(self) -> str:
        return (
            f"vision width {self.width}, {self.layers} blocks, patches of {self.patch} px, frames of {self.side} px, "
            f"text width {self.text_width}"
        )


def is_weights_folder(path: Path) -> bool:
    """Whether a folder holds weights and is not a checkpoint of a run."""
    return not (path / "run.json").exists() and any((path / name).is_file() for name in FOLDER_FILES)


def read_clip(path: Path) -> ClipWeights:
    """Weights of CLIP from a file or a folder: open_clip's, OpenAI's TorchScript archives, those of ``CLIPModel`` of
    Hugging Face's transformers, or the towers of a checkpoint of ours.

    Raises:
        ValueError: it is none of these; the message names it and says what it is.
        OSError: a file cannot be read.
    """
    if path.is_dir():
        path = path / next(name for name in FOLDER_FILES if (path / name).is_file())
    files = _shards(path) if path.name.endswith(".index.json") else [path]
    state: dict[str, Any] = {}
    for file in files:
        state |= _state_of(file)
    record = _record(path, state)
    if any(name.startswith(("text_model.", "vision_model.")) for name in state):
        state = _from_huggingface(path, state)
    return ClipWeights(_plain(path, state), record, ", ".join(sha256(file)[:12] for file in files))


def sizes(state: Mapping[str, torch.Tensor]) -> Sizes | None:
    """Of a state dict by open_clip's names; None where it is not that of a ViT and a text tower."""
    try:
        width, _, patch, _ = state["visual.conv1.weight"].shape
        places, text_width = len(state["visual.positional_embedding"]), state["token_embedding.weight"].shape[1]
    except (KeyError, ValueError, IndexError):
        return None
    blocks = {name.split(".")[3] for name in state if name.startswith("visual.transformer.resblocks.")}
    return Sizes(patch, width, len(blocks), math.isqrt(places - 1) * patch, text_width)


def names_of(wanted: Sizes) -> list[str]:
    """open_clip's architectures of these sizes, the shortest name first."""
    return sorted((name for name, known in _known_sizes() if known == wanted), key=lambda name: (len(name), name))


@cache
def _known_sizes() -> list[tuple[str, Sizes]]:
    known = []
    for name in open_clip.list_models():
        config = open_clip.get_model_config(name)
        vision, text = config["vision_cfg"], config["text_cfg"]
        values = [vision.get(key) for key in ("patch_size", "width", "layers", "image_size")] + [text.get("width")]
        if all(isinstance(value, int) for value in values) and "multimodal_cfg" not in config:
            known.append((name, Sizes(*values)))
    return known


def _shards(index: Path) -> list[Path]:
    """The files that an index of Hugging Face names, beside it."""
    try:
        names = sorted(set(json.loads(index.read_text("utf-8"))["weight_map"].values()))
    except (ValueError, KeyError, TypeError, AttributeError):
        raise ValueError(f"--init {index}: not an index of weights, a JSON object with a weight_map") from None
    files = [index.parent / name for name in names]
    if missing := [file for file in files if not file.is_file()]:
        raise ValueError(
            f"--init {index}: of the {len(files)} files it names {len(missing)} are missing, {missing[0]} first; "
            "download them too"
        )
    return files


def _state_of(path: Path) -> dict[str, Any]:
    try:
        held = read_tensors(path)
    except ValueError as error:
        raise ValueError(f"--init {path}: not a checkpoint of tensors: it {error}") from None
    state = held.get("state_dict", held) if isinstance(held, dict) else held
    if not isinstance(state, Mapping) or not state:
        raise ValueError(
            f"--init {path}: not a checkpoint of tensors: it holds a {type(state).__name__}, no state dict"
        )
    state = {str(name).removeprefix("module."): value for name, value in state.items()}
    odd = [name for name, value in state.items() if not isinstance(value, torch.Tensor)]
    if odd:
        raise ValueError(f"--init {path}: {odd[0]!r} is not a tensor; expected a state dict of weights")
    return state


def _plain(path: Path, state: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The towers of what came with more, or under a prefix."""
    if "clip.visual.conv1.weight" in state:  # a checkpoint of ours
        return {name.removeprefix("clip."): x for name, x in restored(state).items() if name.startswith("clip.")}
    if any(name.startswith("visual.layer1.") for name in state):
        raise ValueError(f"--init {path}: its vision tower is a ResNet, not a ViT; choose weights of a ViT")
    if any(name.startswith("text.token_embedding") for name in state):  # open_clip's CustomTextCLIP
        state = {name.removeprefix("text."): x for name, x in state.items()}
    return {name: x for name, x in plain_state(state).items() if not _NO_WEIGHTS.fullmatch(name)}


def _from_huggingface(path: Path, state: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """``CLIPModel`` under open_clip's names. What has no name there keeps its own."""
    for part, tower in (("text_model", "vision"), ("vision_model", "text")):
        if not any(name.startswith(f"{part}.") for name in state):
            raise ValueError(
                f"--init {path}: it holds the {tower} tower alone; take the weights of the whole CLIPModel"
            )
    return dict(_renamed(path, state))


def _renamed(path: Path, state: Mapping[str, torch.Tensor]) -> Iterator[tuple[str, torch.Tensor]]:
    for name, x in state.items():
        if name in _HF_NAMES:
            yield _HF_NAMES[name], x.T.contiguous() if name.endswith("_projection.weight") else x
            continue
        found = re.fullmatch(r"(text_model|vision_model)\.encoder\.layers\.(\d+)\.(.+)\.(weight|bias)", name)
        if found is None:
            if not name.endswith(".position_ids"):
                yield name, x
            continue
        tower, layer, part, kind = found.groups()
        block = f"{_HF_TOWERS[tower]}.{layer}"
        if part == "self_attn.q_proj":
            yield f"{block}.attn.in_proj_{kind}", _joined(path, state, name)
        elif part not in ("self_attn.k_proj", "self_attn.v_proj"):
            yield f"{block}.{_HF_PARTS[part]}.{kind}" if part in _HF_PARTS else name, x


def _joined(path: Path, state: Mapping[str, torch.Tensor], query: str) -> torch.Tensor:
    """Queries, keys and values in one."""
    names = [query.replace("q_proj", part) for part in ("q_proj", "k_proj", "v_proj")]
    if missing := [name for name in names if name not in state]:
        raise ValueError(f"--init {path}: {missing[0]!r} is missing")
    shapes = {tuple(state[name].shape) for name in names}
    if len(shapes) > 1:
        raise ValueError(f"--init {path}: {', '.join(names)} have different shapes, {sorted(shapes)}")
    return torch.cat([state[name] for name in names])


def _record(path: Path, state: Mapping[str, torch.Tensor]) -> dict[str, Any]:
    """What the file, or the configuration that was published with it, says of the training."""
    if any(name.startswith(("text_model.", "vision_model.")) for name in state):
        config, pixels = _json(path.parent / "config.json"), _json(path.parent / "preprocessor_config.json")
        record = _huggingface_activation(path.parent / "config.json", config) if config.get("model_type") else {}
        return record | {key: pixels[f"image_{key}"] for key in ("mean", "std") if f"image_{key}" in pixels}
    if "clip.visual.conv1.weight" in state:
        files = (_json(path.parent / name) for name in ("run.json", "config.json"))
        known = [facts["architecture"] for facts in files if isinstance(facts.get("architecture"), dict)]
        return {"quick_gelu": bool(known[0].get("quick_gelu"))} if known else {}
    if holds_torchscript(path):
        code = source(path)
        quick, plain = "torch.sigmoid(" in code, "torch.gelu(" in code
        return {"quick_gelu": quick} if quick != plain else {}
    published = _json(path.parent / "open_clip_config.json") if path.name.startswith("open_clip_") else {}
    if "model_cfg" not in published:
        return {}
    pixels = published.get("preprocess_cfg", {})
    told = {"quick_gelu": bool(published["model_cfg"].get("quick_gelu"))}
    return told | {key: pixels[key] for key in ("mean", "std") if key in pixels}


def _huggingface_activation(path: Path, config: dict[str, Any]) -> dict[str, Any]:
    """transformers leaves out of its files what has its default, and that of CLIP's activation is QuickGELU."""
    towers = [config.get(name) or {} for name in ("text_config", "vision_config")]
    named = {str(tower.get("hidden_act", "quick_gelu")) for tower in towers}
    quick = {_HF_QUICK_GELU.get(name) for name in named}
    if len(quick) > 1 or None in quick:
        raise ValueError(f"--init {path}: hidden_act is {' and '.join(sorted(named))}; expected gelu or quick_gelu")
    return {"quick_gelu": quick.pop()}


def _json(path: Path) -> dict[str, Any]:
    """A JSON object, which is empty where there is no such file."""
    try:
        held = json.loads(path.read_text("utf-8"))
    except FileNotFoundError:
        return {}
    except ValueError as error:
        raise ValueError(f"--init: {path} is not JSON: {error}") from None
    return held if isinstance(held, dict) else {}
