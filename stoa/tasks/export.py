"""A trained model as files that need neither its run nor DeepSpeed: weights with a configuration, and the towers as
graphs.

Shape legend: B clips or texts, T frames, S side of a frame, L text tokens, d joint width.
"""

from __future__ import annotations

import copy
import dataclasses
import importlib.util
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import nn
from torch.nn import functional as F

from stoa.data.text import tokenizer
from stoa.files import replacing, sha256, write_whole, writing
from stoa.models.clip import Clip, architecture, image_side, require_architecture
from stoa.models.compact import compacted, restored
from stoa.models.config import ModelConfig
from stoa.models.video_language import VideoLanguageModel, select_rows
from stoa.models.weights import load_strictly
from stoa.progress import Progress
from stoa.tasks.config import Task
from stoa.tasks.evaluation import Abilities
from stoa.tasks.trained import TrainedModel
from stoa.text_files import read_own
from stoa.training import checkpoint
from stoa.training.metrics import METRICS_FILE

FORMAT_VERSION = 1
WEIGHTS, CONFIG = "model.safetensors", "config.json"
_FACTS = {"version", "model", "architecture", "used_token_ids", "abilities", "task", "weights_sha256", "origin"}


def export_model(
    trained: TrainedModel, abilities: Abilities, task: Task | None, folder: Path, *, compact: bool = False
) -> None:
    """Write ``model.safetensors`` and ``config.json``, from which :func:`load_exported` makes the model again.

    Args:
        trained: the model.
        abilities: of it.
        task: what it was fine-tuned for, if for anything.
        folder: to write.
        compact: see :mod:`stoa.models.compact`.

    Raises:
        ValueError: it cannot be made compact.
        StorageError: the disk refuses.
    """
    config, head = trained.model.config, trained.model.lm_head
    state = {name: tensor.cpu().contiguous() for name, tensor in trained.model.state_dict().items()}
    if compact:
        state = compacted(state, None if head.used_ids is None else head.used_ids.tolist())
    folder.mkdir(parents=True, exist_ok=True)
    with replacing(folder / WEIGHTS) as written:
        save_file(state, written)
    facts = {
        "version": FORMAT_VERSION,
        "model": dataclasses.asdict(config),
        "architecture": architecture(config.backbone),
        "used_token_ids": None if head.used_ids is None else head.used_ids.tolist(),
        "abilities": abilities._asdict(),
        "task": task,
        "weights_sha256": sha256(folder / WEIGHTS),
        "origin": trained.origin,
    }
    write_whole(folder / CONFIG, json.dumps(facts, indent=2) + "\n")


def is_exported(folder: Path) -> bool:
    return (folder / CONFIG).is_file()


def require_own_folder(folder: Path, option: str) -> None:
    """An export has a folder of its own: weights beside checkpoints would be taken for those of the run.

    Raises:
        ValueError: ``folder`` is a run's, a checkpoint, or holds something else.
    """
    other = sorted(path.name for path in folder.iterdir() if not _is_of_an_export(path)) if folder.is_dir() else []
    if checkpoint.is_a_checkpoint(folder) or checkpoint.holds_checkpoints(folder):
        what = "is a checkpoint, or holds some"
    elif (folder / METRICS_FILE).is_file():
        what = "is a run's output_dir"
    elif other and not is_exported(folder):
        what = f"holds other files ({other[0]})"
    else:
        return
    raise ValueError(f"{option} is {folder}, which {what}; pass a new or empty folder")


def _is_of_an_export(path: Path) -> bool:
    return path.name.startswith(".") or path.name in (WEIGHTS, CONFIG) or path.suffix in (".pt2", ".onnx", ".data")


def load_exported(
    folder: Path, device: torch.device, model_config: Callable[[dict[str, Any]], ModelConfig]
) -> tuple[TrainedModel, Abilities, Task | None]:
    """The model that :func:`export_model` has written, loaded strictly, with its abilities and its task.

    Args:
        folder: with the two files.
        device: where to put it.
        model_config: makes a configuration of what ``config.json`` says.

    Raises:
        ValueError: a file is missing or damaged, of another version, or the weights do not fit.
    """
    facts = read_own(folder / CONFIG, _FACTS, "export it again")
    if facts["version"] != FORMAT_VERSION:
        raise ValueError(f"{folder / CONFIG} has version {facts.get('version')!r}; this reads {FORMAT_VERSION}")
    weights = folder / WEIGHTS
    if not weights.is_file() or sha256(weights) != facts["weights_sha256"]:
        raise ValueError(f"{weights} is missing or not the file that {CONFIG} was written for; export it again")
    config = model_config(facts["model"])
    require_architecture(config.backbone, facts["architecture"], str(folder))
    model = VideoLanguageModel(config, used_token_ids=facts["used_token_ids"])
    load_strictly(model, restored(load_file(weights)), str(folder), f"{CONFIG} was changed: export it again")
    trained = TrainedModel(model.to(device).eval(), device, image_side(config.backbone), facts["origin"])
    return trained, Abilities(**facts["abilities"]), facts.get("task")


class VideoEncoder(nn.Module):
    """uint8 frames (B, T, 3, S, S) -> unit vectors (B, d): the mean of the frames' [CLS], with a graph what it adds."""

    def __init__(self, model: VideoLanguageModel) -> None:
        super().__init__()
        self.clip = model.clip
        # Not by the name of ``graph``, which torch's graph modules have themselves.
        self.patch_graph = model.graph if model.config.graph.layers else None
        self.tap = len(model.clip.visual.blocks) - model.config.graph.tap_from_top

    def forward(self, frames_BTCHW: torch.Tensor) -> torch.Tensor:
        taps = frozenset[int]() if self.patch_graph is None else frozenset({self.tap})
        frames_BTd, tapped = self.clip.encode_frames(frames_BTCHW, taps)
        pooled_Bd = frames_BTd.mean(dim=1)
        if self.patch_graph is not None:
            pooled_Bd = pooled_Bd + self.patch_graph(tapped[self.tap].unflatten(0, frames_BTd.shape[:2])).pooled_Bd
        return F.normalize(pooled_Bd, dim=-1)


class TextEncoder(nn.Module):
    """Token ids (B, L), padded behind the end token -> unit vectors (B, d)."""

    def __init__(self, clip: Clip) -> None:
        super().__init__()
        self.clip = clip
        self.end = tokenizer().eot_token_id

    def forward(self, tokens_BL: torch.Tensor) -> torch.Tensor:
        text_BLd = self.clip.encode_text(self.clip.token_embedding(tokens_BL))
        return F.normalize(select_rows(text_BLd, (tokens_BL == self.end).int().argmax(dim=1)), dim=-1)


def export_dual_encoder(trained: TrainedModel, folder: Path, *, onnx: bool) -> list[Path]:
    """Write both towers as programs of ``torch.export`` (``.pt2``) and, if wanted, as ONNX. The batch may be of any
    size; text is padded to the model's ``max_tokens``. Cosines between the outputs are the scores called ``itc``. The
    programs are for the CPU, whatever the model is on: one for a GPU does not load without it.

    Returns:
        the files.

    Raises:
        ValueError: ONNX is wanted and its packages are not there.
        StorageError: the disk refuses.
    """
    if onnx and importlib.util.find_spec("onnxscript") is None:
        raise ValueError("ONNX needs two more packages: pip install '.[onnx]' in the checkout")
    folder.mkdir(parents=True, exist_ok=True)
    config, clip = trained.model.config, trained.model.clip
    frames = torch.zeros(2, config.num_frames, 3, trained.side, trained.side, dtype=torch.uint8)
    tokens = torch.zeros(2, config.max_tokens, dtype=torch.int64)
    written = []
    encoders: list[tuple[str, nn.Module, torch.Tensor]] = [
        ("video_encoder", VideoEncoder(trained.model), frames),
        ("text_encoder", TextEncoder(clip), tokens),
    ]
    with Progress(len(encoders) * (1 + onnx), "export", "files") as progress:
        for name, encoder, example in encoders:
            batch = torch.export.Dim("batch", min=1, max=65_536)
            on_cpu = copy.deepcopy(encoder).cpu().eval()
            program = torch.export.export(on_cpu, (example,), dynamic_shapes=({0: batch},))
            with replacing(folder / f"{name}.pt2") as path, open(path, "wb") as file:
                torch.export.save(program, file)
            written.append(folder / f"{name}.pt2")
            progress.update()
            if onnx:
                path = folder / f"{name}.onnx"
                with writing(path):  # not under another name, by which it would call a file of large weights
                    torch.onnx.export(program, (), path, input_names=["input"], output_names=["vectors"], verbose=False)
                written.append(path)
                progress.update()
    return written
