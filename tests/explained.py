"""Models and clips of Moving Shapes to explain."""

from dataclasses import replace
from pathlib import Path

import torch
from factories import tiny_config

from stoa.data.text import used_token_ids
from stoa.manifest import ClipRow, read_manifest
from stoa.models.config import ActionConfig, GraphConfig, ObjectConfig
from stoa.models.video_language import VideoLanguageModel
from stoa.prepare.detections import read_class_names
from stoa.tasks.evaluation import Abilities
from stoa.tasks.explain import clip_of_row, explain
from stoa.tasks.explanation import Explanation
from stoa.tasks.tagging import TaggedCaption
from stoa.tasks.trained import TrainedModel

ABILITIES = Abilities("one_pass", "end", None)


def untrained_model(folder: Path, **changes) -> TrainedModel:
    """Of a folder of Moving Shapes; with objects, actions and a graph."""
    torch.manual_seed(0)
    used = used_token_ids(caption for row in read_manifest(folder / "manifest.jsonl") for caption in row.captions)
    sizes = {
        "objects": ObjectConfig(num_trajectories=6, max_boxes=5),
        "actions": ActionConfig(num_tokens=3),
        "graph": GraphConfig(layers=1),
    }
    config = tiny_config(**{"num_frames": 4, "max_tokens": 28, **sizes, **changes})
    model = VideoLanguageModel(config, used_token_ids=used).eval()
    return TrainedModel(model, torch.device("cpu"), 32, {})


def first_row(folder: Path) -> ClipRow:
    return read_manifest(folder / "manifest.jsonl", split="test")[0]


def explained(trained: TrainedModel, folder: Path, abilities: Abilities = ABILITIES, **changes) -> Explanation:
    row = first_row(folder)
    found = explain(
        trained,
        abilities,
        clip_of_row(row, folder),
        TaggedCaption(row.captions[0], "from the manifest"),
        name=row.id,
        class_names=read_class_names(folder / "labels.json"),
    )
    return replace(found, **changes)
