"""Clips as the loader reads them: decoded, cropped, tokenised, with their boxes.

Shape legend: B clips, T frames, S side of the frame, K boxes per frame, L text tokens.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch.utils.data import Dataset

from stoa.batch import VideoTextBatch
from stoa.data.boxes import ClipBoxes, ClipShape, boxes_on_frames
from stoa.data.clips import Clips
from stoa.data.decoding.base import DecodeError
from stoa.data.decoding.cpu import CpuDecoder, decode_guarded
from stoa.data.decoding.guard import Guard
from stoa.data.ledger import Blame, Ledger
from stoa.data.media import FramePack, decode_pack
from stoa.data.sampler import SampleKey
from stoa.data.text import encode_caption
from stoa.data.transforms import resize_and_crop
from stoa.manifest import ClipRow

# A manifest in which this many replacements in a row fail is broken as a whole.
MAX_REPLACEMENTS = 16


class Sample(NamedTuple):
    """One clip with one caption, as arrays; see :class:`VideoTextBatch` for the fields.

    ``dropped_boxes`` counts detections that were outside the frame, cropped away or malformed;
    ``replaced`` is 1 when this clip stands in for one that could not be read.
    """

    frames_TCHW: torch.Tensor
    tokens_L: np.ndarray
    text_mask_L: np.ndarray
    noun_mask_L: np.ndarray
    verb_mask_L: np.ndarray
    word_end_L: np.ndarray
    noun_labels_L: np.ndarray
    boxes_TK4: np.ndarray
    labels_TK: np.ndarray
    scores_TK: np.ndarray
    true_labels_TK: np.ndarray
    clip_key: int
    caption_key: int
    position: int
    dropped_boxes: int
    replaced: int


class LoadedBatch(NamedTuple):
    """A batch and what happened on the way to it."""

    batch: VideoTextBatch
    replaced: int
    dropped_boxes: int


class ClipDataset(Dataset[Sample]):
    """Clips addressed by :class:`SampleKey`.

    Args:
        clips: of a manifest or a store.
        shape: what the model wants to see.
        seed: fixes which of several captions an epoch uses, and the replacements.
        decoder: ``auto`` is decord where it can be trusted, PyAV for the rest.
        timeout_seconds: a video that takes longer to decode counts as hung; 0 decodes without a process of its own,
            so that a crash in a decoder ends this one.
        ledger: where replacements and fallbacks are recorded, and those that this run has blamed are read.
        cache_bytes: clips kept in memory by each loader process, decoded and cropped; for sets that fit.
    """

    def __init__(
        self,
        clips: Clips,
        shape: ClipShape,
        *,
        seed: int,
        decoder: CpuDecoder = "auto",
        timeout_seconds: float = 60.0,
        ledger: Ledger | None = None,
        cache_bytes: int = 0,
    ) -> None:
        self.clips = clips
        self.shape = shape
        self.seed = seed
        self.decoder = decoder
        self.ledger = ledger or Ledger(None)
        self.cache_bytes = cache_bytes
        self._guard = Guard(timeout_seconds) if timeout_seconds else None
        self._blamed = self.ledger.blamed()
        self._cache: dict[int, tuple[ClipRow, torch.Tensor, ClipBoxes]] = {}
        self._fallbacks: set[int] = set()

    def __len__(self) -> int:
        return len(self.clips)

    def __getitem__(self, key: SampleKey) -> Sample:
        """Load a sample; a clip that cannot be read is replaced by another, chosen by (seed, epoch, clip).

        Raises:
            ValueError: the replacements could not be read either.
            OSError: the storage does not answer.
        """
        index, reason = key.clip, ""
        for attempt in range(MAX_REPLACEMENTS + 1):
            try:
                self._refuse_blamed(index, key.epoch)
                return self._load(index, key, replaced=int(attempt > 0))
            except (DecodeError, ValueError) as error:
                reason = str(error)
                clip, path = self.clips.row(index).id, self.clips.where(index)
                if isinstance(error, DecodeError) and error.kind in ("crash", "hang"):
                    self._blame(clip, index, reason, path, key.epoch)
                index = stable_hash(self.seed, key.epoch, key.clip, attempt) % len(self.clips)
                self.ledger.record(
                    "replaced", clip, reason, path=path, epoch=key.epoch, replacement=self.clips.row(index).id
                )
        raise ValueError(
            f"clip {self.clips.row(key.clip).id!r} and {MAX_REPLACEMENTS} replacements could not be read, the last one "
            f"{path}: {reason}; check the manifest's video paths (ledger: {self.ledger.path})"
        )

    def load(self, index: int, *, caption: int = 0, position: int = 0) -> Sample:
        """Load one clip with the given caption, without replacement.

        Raises:
            ValueError: it cannot be read; the message names id and file.
        """
        try:
            return self._load(index, SampleKey(index, 0, position), replaced=0, caption=caption)
        except DecodeError as error:
            raise ValueError(f"clip {self.clips.row(index).id!r}, {self.clips.where(index)}: {error}") from None

    def _load(self, index: int, key: SampleKey, *, replaced: int, caption: int | None = None) -> Sample:
        row, frames_TCHW, boxes = self._cache.get(index) or self._read(index)
        number = stable_hash(self.seed, key.epoch, key.clip) if caption is None else caption
        encoded = encode_caption(row.captions[number % len(row.captions)], self.shape.max_tokens)
        return Sample(
            frames_TCHW=frames_TCHW,
            tokens_L=encoded.tokens_L,
            text_mask_L=encoded.text_mask_L,
            noun_mask_L=encoded.noun_mask_L,
            verb_mask_L=encoded.verb_mask_L,
            word_end_L=encoded.word_end_L,
            noun_labels_L=encoded.noun_labels_L,
            boxes_TK4=boxes.boxes_TK4,
            labels_TK=boxes.labels_TK,
            scores_TK=boxes.scores_TK,
            true_labels_TK=boxes.true_labels_TK,
            clip_key=stable_hash(row.id),
            caption_key=stable_hash(*encoded.tokens_L),
            position=key.position,
            dropped_boxes=boxes.dropped,
            replaced=replaced,
        )

    def _read(self, index: int) -> tuple[ClipRow, torch.Tensor, ClipBoxes]:
        """A clip, its frames as the model sees them, (T, 3, S, S) uint8, and the boxes on them."""
        clip = self.clips.read(index)
        if isinstance(clip.media, FramePack):
            decoded = decode_pack(clip.media, self.shape.num_frames)
        else:
            media = clip.media
            decoded, reason = decode_guarded(
                self._guard,
                media.video,
                self.shape.num_frames,
                media.start_seconds,
                media.end_seconds,
                self.decoder,
            )
            if reason is not None and index not in self._fallbacks:  # a long run would repeat it every epoch
                self._fallbacks.add(index)
                self.ledger.record("fallback", clip.row.id, reason)
        frames_TCHW = resize_and_crop(decoded.frames_THWC, self.shape.side)
        read = clip.row, frames_TCHW, boxes_on_frames(clip.detections, decoded.times_seconds, self.shape)
        if (len(self._cache) + 1) * frames_TCHW.nbytes <= self.cache_bytes:
            self._cache[index] = read
        return read

    def _refuse_blamed(self, index: int, epoch: int) -> None:
        if self._blamed:
            blame = self._blamed.get(self.clips.row(index).id)
            if blame is not None and epoch >= blame.epoch:
                raise DecodeError("blamed", blame.reason)

    def _blame(self, clip: str, index: int, reason: str, path: str, epoch: int) -> None:
        """On record before the replacement is used: a resumed run sees the same clips and does not try again."""
        self._blamed[clip] = Blame(epoch, reason)
        self.ledger.record("blamed", clip, reason, path=path, epoch=epoch)


def collate(samples: Sequence[Sample]) -> LoadedBatch:
    """Stack samples into a batch."""

    def stack(name: str) -> torch.Tensor:
        return torch.from_numpy(np.stack([getattr(sample, name) for sample in samples]))

    def numbers(name: str) -> torch.Tensor:
        return torch.tensor([getattr(sample, name) for sample in samples], dtype=torch.int64)

    batch = VideoTextBatch(
        frames_BTCHW=torch.stack([sample.frames_TCHW for sample in samples]),
        tokens_BL=stack("tokens_L"),
        text_mask_BL=stack("text_mask_L"),
        noun_mask_BL=stack("noun_mask_L"),
        verb_mask_BL=stack("verb_mask_L"),
        word_end_BL=stack("word_end_L"),
        noun_labels_BL=stack("noun_labels_L"),
        boxes_BTK4=stack("boxes_TK4"),
        labels_BTK=stack("labels_TK"),
        scores_BTK=stack("scores_TK"),
        true_labels_BTK=stack("true_labels_TK"),
        clip_keys_B=numbers("clip_key"),
        caption_keys_B=numbers("caption_key"),
        position_B=numbers("position"),
    )
    return LoadedBatch(batch, sum(s.replaced for s in samples), sum(s.dropped_boxes for s in samples))


def stable_hash(*parts: object) -> int:
    """Non-negative 63-bit hash, the same in every process and run."""
    digest = hashlib.blake2b("\x1f".join(map(str, parts)).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1
