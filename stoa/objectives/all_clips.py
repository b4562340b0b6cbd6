"""The video sides of the clips of all ranks, gathered once for all losses that compare with them.

Shape legend: A clips of all ranks, G video-side tokens, R rows (trajectories or action tokens), d joint width.
"""

from __future__ import annotations

from typing import NamedTuple

import torch

from stoa.models.video_language import VideoFeatures
from stoa.objectives.gather import gather_rows, gather_rows_no_grad


class AllClips(NamedTuple):
    """In the order of the ranks; with gradient, each rank's of the losses of all.

    Attributes:
        tokens_AGd, valid_AG: as those of :class:`stoa.models.video_language.VideoFeatures`.
    """

    tokens_AGd: torch.Tensor
    valid_AG: torch.Tensor


def gather_clips(video: VideoFeatures) -> AllClips:
    return AllClips(gather_rows(video.tokens_BGd), gather_rows_no_grad(video.valid_BG))
