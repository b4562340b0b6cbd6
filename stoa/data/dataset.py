"""Clips as the loader reads them: decoded, cropped, tokenised, with their boxes.

Shape legend: B clips, T frames, S side of the frame, K boxes per frame, L text tokens.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
import torch
from torch.utils.data import Dataset

from stoa.batch import VideoTextBatch
from stoa.data.decoding.base import DecodedFrames, DecodeError
from stoa.data.decoding.cpu import decode_cpu, decode_decord, decode_pyav
from stoa.data.ledger import Ledger
from stoa.data.sampler import SampleKey
from stoa.data.sampling import nearest_frames
from stoa.data.text import encode_caption
from stoa.data.transforms import boxes_to_model, resize_and_crop
from stoa.detections import Detections
from stoa.manifest import Caption, ClipRow

# A manifest in which this many replacements in a row fail is broken as a whole.
MAX_REPLACEMENTS = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class ClipShape:
    """What the model wants to see: frames (T), side in pixels (S), text tokens (L), boxes per frame (K)."""

    num_frames: int
    side: int
    max_tokens: int
    max_boxes: int


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
    """Clips of a manifest, addressed by :class:`SampleKey`.

    Args:
        rows: of the manifest.
        root: folder the rows' paths are relative to.
        shape: what the model wants to see.
        seed: fixes which of several captions an epoch uses, and the replacements.
        decoder: ``auto`` is decord, then PyAV for what decord cannot read.
        ledger: where replacements and fallbacks are recorded.
        cache_bytes: clips kept in memory by each loader process, decoded and cropped; for sets that fit.
    """

    def __init__(
        self,
        rows: Sequence[ClipRow],
        root: Path,
        shape: ClipShape,
        *,
        seed: int,
        decoder: Literal["auto", "decord", "pyav"] = "auto",
        ledger: Ledger | None = None,
        cache_bytes: int = 0,
    ) -> None:
        self.rows = rows
        self.root = root
        self.shape = shape
        self.seed = seed
        self.decoder = decoder
        self.ledger = ledger or Ledger(None)
        self.cache_bytes = cache_bytes
        self._cache: dict[str, tuple[torch.Tensor, _Boxes]] = {}
        self._fallbacks: set[str] = set()

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, key: SampleKey) -> Sample:
        """Load a sample; a clip that cannot be read is replaced by another, chosen by (seed, epoch, clip).

        Raises:
            ValueError: the replacements could not be read either.
        """
        row, reason = self.rows[key.clip], ""
        for attempt in range(MAX_REPLACEMENTS + 1):
            try:
                return self._load(row, key, replaced=int(attempt > 0))
            except (DecodeError, ValueError) as error:
                reason = str(error)
                path = str(self.root / row.video)
                substitute = stable_hash(self.seed, key.epoch, key.clip, attempt) % len(self.rows)
                self.ledger.record(
                    "replaced", row.id, reason, path=path, epoch=key.epoch, replacement=self.rows[substitute].id
                )
                row = self.rows[substitute]
        raise ValueError(
            f"clip {self.rows[key.clip].id!r} and {MAX_REPLACEMENTS} replacements could not be read, the last one "
            f"{path}: {reason}; check the manifest's video paths (ledger: {self.ledger.path})"
        )

    def load(self, index: int, *, caption: int = 0, position: int = 0) -> Sample:
        """Load one clip with the given caption, without replacement.

        Raises:
            ValueError: it cannot be read; the message names id and file.
        """
        row = self.rows[index]
        try:
            return self._load(row, SampleKey(index, 0, position), replaced=0, caption=row.captions[caption])
        except DecodeError as error:
            raise ValueError(f"clip {row.id!r}, {self.root / row.video}: {error}") from None

    def _load(self, row: ClipRow, key: SampleKey, *, replaced: int, caption: Caption | None = None) -> Sample:
        if caption is None:
            caption = row.captions[stable_hash(self.seed, key.epoch, key.clip) % len(row.captions)]
        frames_TCHW, boxes = self._video(row)
        encoded = encode_caption(caption, self.shape.max_tokens)
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

    def _video(self, row: ClipRow) -> tuple[torch.Tensor, _Boxes]:
        """Frames as the model sees them, (T, 3, S, S) uint8, and the boxes on them."""
        if row.id in self._cache:
            return self._cache[row.id]
        decoders: dict[str, Callable[..., DecodedFrames]] = {
            "auto": partial(decode_cpu, on_fallback=partial(self._record_fallback, row.id)),
            "decord": decode_decord,
            "pyav": decode_pyav,
        }
        path = str(self.root / row.video)
        decoded = decoders[self.decoder](path, self.shape.num_frames, row.start_seconds, row.end_seconds)
        frames_TCHW = resize_and_crop(decoded.frames_THWC, self.shape.side)
        video = frames_TCHW, self._boxes(row, decoded.times_seconds)
        if (len(self._cache) + 1) * frames_TCHW.nbytes <= self.cache_bytes:
            self._cache[row.id] = video
        return video

    def _record_fallback(self, clip: str, reason: str) -> None:
        """Once a clip and process: a long run would repeat it every epoch."""
        if clip not in self._fallbacks:
            self._fallbacks.add(clip)
            self.ledger.record("fallback", clip, reason)

    def _boxes(self, row: ClipRow, times_seconds: np.ndarray) -> _Boxes:
        """The K most confident boxes of the nearest detected frame, for every sampled frame."""
        T, K = self.shape.num_frames, self.shape.max_boxes
        out = _Boxes(
            boxes_TK4=np.zeros((T, K, 4), dtype=np.float32),
            labels_TK=np.full((T, K), -1, dtype=np.int64),
            scores_TK=np.zeros((T, K), dtype=np.float32),
            true_labels_TK=np.full((T, K), -1, dtype=np.int64),
            dropped=0,
        )
        if row.detections is None or K == 0:
            return out
        found = Detections.load(self.root / row.detections)
        width, height = (int(v) for v in found.size_wh)
        boxes_n4, usable_n = boxes_to_model(found.boxes, height, width, self.shape.side)
        if len(found.frame_times_seconds):
            for t, frame in enumerate(nearest_frames(found.frame_times_seconds, times_seconds)):
                here = np.flatnonzero((found.frame_index == frame) & usable_n)
                best = here[np.argsort(-found.scores[here], kind="stable")[:K]]
                out.boxes_TK4[t, : len(best)] = boxes_n4[best]
                out.labels_TK[t, : len(best)] = found.labels[best]
                out.scores_TK[t, : len(best)] = found.scores[best]
                if found.true_labels is not None:
                    out.true_labels_TK[t, : len(best)] = found.true_labels[best]
        return out._replace(dropped=int((~usable_n).sum()))


class _Boxes(NamedTuple):
    boxes_TK4: np.ndarray
    labels_TK: np.ndarray
    scores_TK: np.ndarray
    true_labels_TK: np.ndarray
    dropped: int


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
