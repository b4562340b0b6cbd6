"""What of a clip a model gets to see: all, or less, as a control."""

from __future__ import annotations

import numpy as np
import torch

from stoa.data.boxes import ClipBoxes
from stoa.data.config import View


def viewed(view: View, frames_TCHW: torch.Tensor, boxes: ClipBoxes, draw: int) -> tuple[torch.Tensor, ClipBoxes]:
    """Frames and boxes as the view has them; ``draw`` keys the order of ``shuffled``."""
    if view == "whole":
        return frames_TCHW, boxes
    T = len(frames_TCHW)
    if view == "blind":
        return torch.zeros_like(frames_TCHW), boxes._replace(
            boxes_TK4=np.zeros_like(boxes.boxes_TK4),
            labels_TK=np.full_like(boxes.labels_TK, -1),
            scores_TK=np.zeros_like(boxes.scores_TK),
            true_labels_TK=np.full_like(boxes.true_labels_TK, -1),
        )
    order = np.full(T, T // 2) if view == "one_frame" else np.random.default_rng(draw).permutation(T)
    of_boxes = {name: getattr(boxes, name)[order] for name in ("boxes_TK4", "labels_TK", "scores_TK", "true_labels_TK")}
    return frames_TCHW[torch.from_numpy(order)], boxes._replace(**of_boxes)
