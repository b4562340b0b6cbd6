"""Captions of videos by a trained model."""

from __future__ import annotations

from collections.abc import Iterable

import torch

from stoa.models.config import PlmForm
from stoa.tasks.config import GenerationConfig
from stoa.tasks.generation import generate_captions
from stoa.tasks.trained import TrainedModel
from stoa.tasks.videos import Read


@torch.inference_mode()
def caption_videos(
    trained: TrainedModel, videos: Iterable[Read], config: GenerationConfig, form: PlmForm
) -> dict[str, str]:
    """A caption by the id of each readable clip."""
    out: dict[str, str] = {}
    for rows, batch in videos:
        captions = generate_captions(trained.model, trained.model.encode_video(batch.to(trained.device)), config, form)
        out |= {row.id: caption for row, caption in zip(rows, captions, strict=True)}
    return out
