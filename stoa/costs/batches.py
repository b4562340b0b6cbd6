"""Batches for measurements: every caption full, every box slot filled."""

from __future__ import annotations

import torch

from stoa.batch import VideoTextBatch
from stoa.models.clip import image_side
from stoa.models.config import ModelConfig

START, END = 49406, 49407
LABELS = 30


def full_batch(model: ModelConfig, size: int, device: torch.device) -> VideoTextBatch:
    """Random clips with ``max_tokens`` tokens, a third of them nouns and a third verbs, and no empty box. On the meta
    device nothing is drawn."""
    with torch.device("meta" if device.type == "meta" else "cpu"):
        return _full_batch(model, size).to(device)


def _full_batch(model: ModelConfig, size: int) -> VideoTextBatch:
    side, L, T, K = image_side(model.backbone), model.max_tokens, model.num_frames, model.num_boxes
    tokens = torch.randint(320, 40000, (size, L))
    tokens[:, 0], tokens[:, -1] = START, END
    words = torch.arange(L).expand(size, L)
    inside = (words > 0) & (words < L - 1)
    corners = torch.rand(size, T, K, 2, 2).sort(dim=-2).values
    return VideoTextBatch(
        frames_BTCHW=torch.randint(0, 256, (size, T, 3, side, side), dtype=torch.uint8),
        tokens_BL=tokens,
        text_mask_BL=torch.ones(size, L, dtype=torch.bool),
        noun_mask_BL=inside & (words % 3 == 1),
        verb_mask_BL=inside & (words % 3 == 2),
        word_end_BL=inside,
        noun_labels_BL=torch.full((size, L), -1),
        boxes_BTK4=torch.cat([corners[..., 0, :] * 0.9, corners[..., 1, :] * 0.9 + 0.1], dim=-1),
        labels_BTK=torch.randint(0, LABELS, (size, T, K)),
        scores_BTK=torch.rand(size, T, K),
        true_labels_BTK=torch.full((size, T, K), -1),
        clip_keys_B=torch.arange(size),
        caption_keys_B=torch.arange(size) + size,
        position_B=torch.arange(size),
        prefix_B=torch.zeros(size, dtype=torch.int64),
        target_B=torch.full((size,), -1),
    )
