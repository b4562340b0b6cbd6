"""From decoded frames to what the model sees.

Shape legend: T frames, H height, W width, C channels, S side of the square.
"""

from __future__ import annotations

import numpy as np
import torch
from torchvision.transforms.v2 import functional as tv

from stoa.data.placement import place


def resize_and_crop(frames_THWC: np.ndarray, side: int) -> torch.Tensor:
    """Shorter side to ``side`` (bicubic, antialiased, as CLIP does), then the centre square; uint8 (T, 3, S, S)."""
    frames_TCHW = torch.from_numpy(np.ascontiguousarray(frames_THWC)).permute(0, 3, 1, 2)
    if frames_TCHW.shape[-2:] == (side, side):
        return frames_TCHW.contiguous()
    height, width, top, left = place(frames_THWC.shape[1], frames_THWC.shape[2], side)
    resized = tv.resize(frames_TCHW, [height, width], tv.InterpolationMode.BICUBIC, antialias=True)
    return resized[..., top : top + side, left : left + side].contiguous()
