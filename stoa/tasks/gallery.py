"""Videos and captions of an evaluation, encoded once.

Shape legend: V videos, Q captions, G video-side tokens, N trajectories, L text tokens, d joint width.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from stoa.data.text import encode_caption
from stoa.manifest import ClipRow
from stoa.models.video_language import VideoFeatures
from stoa.objectives.matching import majority_class, truth_known
from stoa.progress import Progress
from stoa.tasks.trained import TrainedModel
from stoa.tasks.videos import VideoReader

_TEXTS_AT_ONCE = 64


@dataclass(frozen=True, slots=True)
class Gallery:
    """Encoded videos and captions.

    Attributes:
        ids: of the videos, in order.
        video_tokens_VGd, video_valid_VG, video_pooled_Vd, trajectory_labels_VN: of each video, see
            :class:`stoa.models.video_language.VideoFeatures`.
        trajectory_classes_VN: what each trajectory truly shows, -1 where the data do not know.
        truth_known_V: bool, the data know what the boxes show.
        twins_V: bool, a frame shows two objects of one class, which a trajectory cannot tell apart.
        text_ids_QL, text_tokens_QLd, text_pooled_Qd, text_mask_QL: of each caption; the first are BPE ids. The tokens
            stay on the CPU: those of MSR-VTT's 59,800 captions take 4 GB.
        noun_QL, noun_labels_QL: bool, the last token of each noun; its class or -1.
        video_of_text_Q: index of each caption's video.
    """

    ids: list[str]
    video_tokens_VGd: torch.Tensor
    video_valid_VG: torch.Tensor
    video_pooled_Vd: torch.Tensor
    trajectory_labels_VN: torch.Tensor
    trajectory_classes_VN: torch.Tensor
    truth_known_V: torch.Tensor
    twins_V: torch.Tensor
    text_ids_QL: torch.Tensor
    text_tokens_QLd: torch.Tensor
    text_pooled_Qd: torch.Tensor
    text_mask_QL: torch.Tensor
    noun_QL: torch.Tensor
    noun_labels_QL: torch.Tensor
    video_of_text_Q: torch.Tensor

    def tokens_of_texts(self, texts: torch.Tensor) -> torch.Tensor:
        """(..., L, d) of the captions with these numbers, on the device of the numbers."""
        return self.text_tokens_QLd[texts.cpu()].to(texts.device)

    @property
    def relevant_QV(self) -> torch.Tensor:
        """(Q, V) bool, True where the caption is of the video."""
        return self.video_of_text_Q[:, None] == torch.arange(len(self.ids), device=self.video_of_text_Q.device)


@torch.inference_mode()
def encode_galleries(models: Sequence[TrainedModel], videos: VideoReader) -> list[Gallery]:
    """Encode every video and every caption of it with each model; videos are decoded once.

    Args:
        models: of one configuration, on one device.
        videos: of the gallery, read for these models.

    Raises:
        ValueError: no video can be read.
    """
    config, device = models[0].model.config, models[0].device
    assert all(trained.model.config == config for trained in models)
    readable: list[ClipRow] = []
    features: list[list[VideoFeatures]] = [[] for _ in models]
    classes: list[torch.Tensor] = []
    known: list[torch.Tensor] = []
    twins: list[torch.Tensor] = []
    for rows, on_cpu in videos:
        readable += rows
        batch = on_cpu.to(device)
        for trained, of_model in zip(models, features, strict=True):
            of_model.append(trained.model.encode_video(batch))
        classes.append(majority_class(features[0][-1].trajectory_labels_BN, batch))
        known.append(truth_known(batch.true_labels_BTK))
        twins.append(_has_twins(batch.true_labels_BTK))

    captions = [(video, caption) for video, row in enumerate(readable) for caption in row.captions]
    if not captions:
        raise ValueError("no clip has a caption, so there is nothing to look for")
    encoded = [encode_caption(caption, config.max_tokens) for _, caption in captions]

    def stack(arrays: Iterable[np.ndarray]) -> torch.Tensor:
        return torch.from_numpy(np.stack(list(arrays))).to(device)

    ids_QL, mask_QL = stack(e.tokens_L for e in encoded), stack(e.text_mask_L for e in encoded)
    galleries = []
    for trained, of_model in zip(models, features, strict=True):
        texts: list[tuple[torch.Tensor, torch.Tensor]] = []
        with Progress(len(ids_QL), "encode", "captions") as progress:
            for ids, mask in zip(ids_QL.split(_TEXTS_AT_ONCE), mask_QL.split(_TEXTS_AT_ONCE), strict=True):
                text = trained.model.encode_text(ids, mask)
                texts.append((text.tokens_BLd.cpu(), text.pooled_Bd))
                progress.update(len(ids))
        galleries.append(
            Gallery(
                ids=[row.id for row in readable],
                video_tokens_VGd=torch.cat([video.tokens_BGd for video in of_model]),
                video_valid_VG=torch.cat([video.valid_BG for video in of_model]),
                video_pooled_Vd=torch.cat([video.pooled_Bd for video in of_model]),
                trajectory_labels_VN=torch.cat([video.trajectory_labels_BN for video in of_model]),
                trajectory_classes_VN=torch.cat(classes),
                truth_known_V=torch.cat(known),
                twins_V=torch.cat(twins),
                text_ids_QL=ids_QL,
                text_tokens_QLd=torch.cat([tokens for tokens, _ in texts]),
                text_pooled_Qd=torch.cat([pooled for _, pooled in texts]),
                text_mask_QL=mask_QL,
                noun_QL=stack(e.noun_mask_L & e.word_end_L for e in encoded),
                noun_labels_QL=stack(e.noun_labels_L for e in encoded),
                video_of_text_Q=stack(np.array(video) for video, _ in captions),
            )
        )
    return galleries


def _has_twins(true_labels_BTK: torch.Tensor) -> torch.Tensor:
    same_BTKK = (true_labels_BTK[..., None] == true_labels_BTK[..., None, :]) & (true_labels_BTK >= 0)[..., None]
    return (same_BTKK.sum(dim=-1) > 1).flatten(1).any(dim=1)
