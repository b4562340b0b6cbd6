"""Videos and captions of an evaluation, encoded once.

Shape legend: V videos, Q captions, G video-side tokens, L text tokens, d joint width.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch

from stoa.data.dataset import ClipDataset, ClipShape, collate
from stoa.data.text import encode_caption
from stoa.manifest import ClipRow
from stoa.models.video_language import VideoFeatures
from stoa.tasks.trained import TrainedModel


@dataclass(frozen=True, slots=True)
class Gallery:
    """Encoded videos and captions.

    Attributes:
        ids: of the videos, in order.
        video_tokens_VGd, video_pooled_Vd: of each video.
        text_tokens_QLd, text_pooled_Qd, text_mask_QL: of each caption.
        video_of_text_Q: index of each caption's video.
        unreadable: (id, reason) of the videos left out.
    """

    ids: list[str]
    video_tokens_VGd: torch.Tensor
    video_pooled_Vd: torch.Tensor
    text_tokens_QLd: torch.Tensor
    text_pooled_Qd: torch.Tensor
    text_mask_QL: torch.Tensor
    video_of_text_Q: torch.Tensor
    unreadable: list[tuple[str, str]]

    @property
    def relevant_QV(self) -> torch.Tensor:
        """(Q, V) bool, True where the caption is of the video."""
        return self.video_of_text_Q[:, None] == torch.arange(len(self.ids), device=self.video_of_text_Q.device)


@torch.inference_mode()
def encode_galleries(
    models: Sequence[TrainedModel],
    rows: Sequence[ClipRow],
    root: Path,
    *,
    decoder: Literal["auto", "decord", "pyav"] = "auto",
    batch_size: int = 16,
) -> list[Gallery]:
    """Encode every video and every caption of the rows with each model; videos are decoded once.

    Args:
        models: of one configuration.
        rows: of a manifest.
        root: folder the rows' paths are relative to.
        decoder: see :class:`stoa.data.loader.DataConfig`.
        batch_size: videos (and captions) encoded at once.

    Raises:
        ValueError: no video can be read.
    """
    config, side = models[0].model.config, models[0].side
    assert all(trained.model.config == config for trained in models)
    shape = ClipShape(num_frames=config.num_frames, side=side, max_tokens=config.max_tokens, max_boxes=0)
    dataset = ClipDataset(rows, root, shape, seed=0, decoder=decoder)
    readable: list[ClipRow] = []
    unreadable: list[tuple[str, str]] = []
    videos: list[list[VideoFeatures]] = [[] for _ in models]
    for start in range(0, len(rows), batch_size):
        samples = []
        for index in range(start, min(start + batch_size, len(rows))):
            try:
                samples.append(dataset.load(index))
                readable.append(rows[index])
            except ValueError as error:
                unreadable.append((rows[index].id, str(error)))
        if samples:
            frames_BTCHW = collate(samples).batch.frames_BTCHW
            for trained, features in zip(models, videos, strict=True):
                features.append(trained.model.encode_video(frames_BTCHW.to(trained.device)))
    if not readable:
        raise ValueError(f"none of the {len(rows)} videos can be read; the first: {unreadable[0][1]}")

    captions = [(video, caption) for video, row in enumerate(readable) for caption in row.captions]
    encoded = [encode_caption(caption, config.max_tokens) for _, caption in captions]
    ids_QL = torch.stack([torch.from_numpy(e.tokens_L) for e in encoded])
    mask_QL = torch.stack([torch.from_numpy(e.text_mask_L) for e in encoded])
    video_of_text_Q = torch.tensor([video for video, _ in captions])
    galleries = []
    for trained, features in zip(models, videos, strict=True):
        batches = zip(
            ids_QL.to(trained.device).split(batch_size), mask_QL.to(trained.device).split(batch_size), strict=True
        )
        texts = [trained.model.encode_text(ids, mask) for ids, mask in batches]
        galleries.append(
            Gallery(
                ids=[row.id for row in readable],
                video_tokens_VGd=torch.cat([video.tokens_BGd for video in features]),
                video_pooled_Vd=torch.cat([video.pooled_Bd for video in features]),
                text_tokens_QLd=torch.cat([text.tokens_BLd for text in texts]),
                text_pooled_Qd=torch.cat([text.pooled_Bd for text in texts]),
                text_mask_QL=mask_QL.to(trained.device),
                video_of_text_Q=video_of_text_Q.to(trained.device),
                unreadable=unreadable,
            )
        )
    return galleries
