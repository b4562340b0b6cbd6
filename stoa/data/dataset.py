"""Clips as the loader reads them: decoded, cropped, tokenised, with their boxes.

Shape legend: B clips, T frames, S side of the frame, K boxes per frame, L text tokens.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch.utils.data import Dataset, default_collate

from stoa.batch import VideoTextBatch
from stoa.data.boxes import ClipBoxes, ClipShape
from stoa.data.clips import Clips
from stoa.data.config import CpuDecoder, View
from stoa.data.decoding.base import DecodeError
from stoa.data.decoding.encoded import EncodedFrames
from stoa.data.decoding.findings import as_finding
from stoa.data.decoding.guard import Guard
from stoa.data.decoding.limits import MEMORY_BYTES
from stoa.data.ledger import Blame, Ledger
from stoa.data.reading import ReadClip, read_clip, read_encoded
from stoa.data.sampler import SampleKey
from stoa.data.text import encode_caption
from stoa.data.transforms import resize_and_crop
from stoa.data.views import viewed
from stoa.manifest import Caption, ClipRow

# A manifest in which this many replacements in a row fail is broken as a whole.
MAX_REPLACEMENTS = 16
# So many times the timeout of a decoder without a sign of life reading a clip may take whatever signs it gives.
_LONGEST_CALL = 5
# What computing with a damaged clip brings.
_OF_DAMAGE = (ArithmeticError, AttributeError, LookupError, TypeError, RecursionError)


class Sample(NamedTuple):
    """One clip with one caption, as arrays; see :class:`VideoTextBatch` for the fields.

    ``frames_TCHW`` may be yet to be decoded, or in a :class:`Bundle`. ``dropped_boxes`` counts detections that were
    outside the frame, cropped away or malformed. ``attempt`` is 0 for the clip of ``key`` itself, n for the n-th that
    stands in for it.
    """

    frames_TCHW: torch.Tensor | EncodedFrames | None
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
    prefix: int
    target: int
    key: SampleKey
    attempt: int
    dropped_boxes: int

    @property
    def position(self) -> int:
        """In the global batch."""
        return self.key.position

    @property
    def replaced(self) -> int:
        """1 when the clip stands in for one that could not be read."""
        return int(self.attempt > 0)


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
        decoder: ``auto`` is PyAV, ``decord`` that where it can be trusted.
        timeout_seconds: a clip that takes longer to decode counts as hung; 0 decodes without a process of its own,
            so that a crash in a decoder ends this one.
        guard: that such a process has, of :func:`guard_of_clips`; None makes one.
        memory_bytes: that such a process may take for a clip.
        ledger: where replacements and fallbacks are recorded, and those that this run has blamed are read.
        cache_bytes: clips kept in memory by each loader process, decoded and cropped; for sets that fit.
        encoded: leave the frames as they are stored, for a decoder on the device.
        view: what of a clip is seen.

    Raises:
        ValueError: frames that are left as they are stored cannot be seen but whole.
    """

    def __init__(
        self,
        clips: Clips,
        shape: ClipShape,
        *,
        seed: int,
        decoder: CpuDecoder = "auto",
        timeout_seconds: float = 60.0,
        guard: Guard | None = None,
        memory_bytes: int = MEMORY_BYTES,
        ledger: Ledger | None = None,
        cache_bytes: int = 0,
        encoded: bool = False,
        view: View = "whole",
    ) -> None:
        if encoded and view != "whole":
            raise ValueError(f"data.view is {view!r} and data.decoder 'dali'; a control needs a decoder on the CPU")
        self.clips = clips
        self.shape = shape
        self.seed = seed
        self.decoder = decoder
        self.ledger = ledger or Ledger(None)
        self.cache_bytes = cache_bytes
        self.encoded = encoded
        self.view = view
        self._guard = guard
        if guard is None and timeout_seconds:
            self._guard = guard_of_clips(timeout_seconds, memory_bytes)
        self._blamed, self._blamed_epoch = self.ledger.blamed(), -1
        self._cache: dict[int, tuple[ClipRow, torch.Tensor | EncodedFrames, ClipBoxes]] = {}
        self._cached_bytes = 0
        self._noted: set[int] = set()

    def __len__(self) -> int:
        return len(self.clips)

    def __getitem__(self, key: SampleKey) -> Sample:
        """Load a sample; a clip that cannot be read is replaced by another, chosen by (seed, epoch, clip).

        Raises:
            ValueError: the replacements could not be read either.
            OSError: the storage does not answer.
        """
        return self._attempt(key, 0)

    def instead_of(self, sample: Sample, error: DecodeError) -> Sample:
        """The replacement of a sample whose frames turned out not to decode. Raises as :meth:`__getitem__` does."""
        self._give_up(sample.key, sample.attempt, error)
        return self._attempt(sample.key, sample.attempt + 1)

    def _attempt(self, key: SampleKey, attempt: int) -> Sample:
        while True:
            index = self._candidate(key, attempt)
            try:
                return self._load(index, key, attempt)
            except (DecodeError, ValueError) as error:
                self._give_up(key, attempt, error)
            except _OF_DAMAGE as error:
                self._give_up(key, attempt, _finding(error))
            attempt += 1

    def _candidate(self, key: SampleKey, attempt: int) -> int:
        """The clip to try."""
        if attempt == 0:
            return key.clip
        return stable_hash(self.seed, key.epoch, key.clip, attempt - 1) % len(self.clips)

    def _give_up(self, key: SampleKey, attempt: int, error: DecodeError | ValueError) -> None:
        index, reason = self._candidate(key, attempt), str(error)
        clip, path = self._id(index), self.clips.where(index)
        if isinstance(error, DecodeError) and error.kind in ("crash", "hang"):
            self._blame(clip, index, reason, path, key.epoch)
        if attempt == MAX_REPLACEMENTS:
            raise ValueError(
                f"clip {self._id(key.clip)!r} and {MAX_REPLACEMENTS} replacements could not be read, the last "
                f"one {path}: {reason}; check the manifest's video paths (ledger: {self.ledger.path})"
            )
        replacement = self._id(self._candidate(key, attempt + 1))
        kind = error.kind if isinstance(error, DecodeError) else "unusable"
        self.ledger.record("replaced", clip, reason, kind=kind, path=path, epoch=key.epoch, replacement=replacement)

    def load(self, index: int, *, caption: int = 0, position: int = 0) -> Sample:
        """Load one clip with the given caption, without replacement.

        Raises:
            ValueError: it cannot be read; the message names id and file.
        """
        try:
            return self._load(index, SampleKey(index, 0, position), 0, caption=caption)
        except (DecodeError, *_OF_DAMAGE) as error:
            raise ValueError(f"clip {self._id(index)!r}, {self.clips.where(index)}: {_finding(error)}") from None

    def _load(self, index: int, key: SampleKey, attempt: int, *, caption: int | None = None) -> Sample:
        row, frames_TCHW, boxes = self._cache.get(self.clips.source(index)) or self._read(index, key.epoch)
        if isinstance(frames_TCHW, torch.Tensor):
            frames_TCHW, boxes = viewed(self.view, frames_TCHW, boxes, stable_hash(row.id))
        number = stable_hash(self.seed, key.epoch, key.clip) if caption is None else caption
        texts = self.clips.texts(index, row)
        if not texts:
            if caption is None:
                raise ValueError("it has no caption to train on")
            texts = (Caption(""),)  # an evaluation may ask about a clip that nobody has described
        text = texts[number % len(texts)]
        return sample_of(row.id, frames_TCHW, boxes, text, self.shape.max_tokens, key=key, attempt=attempt)

    def _read(self, index: int, epoch: int) -> tuple[ClipRow, torch.Tensor | EncodedFrames, ClipBoxes]:
        """A clip, its frames as the model sees them, (T, 3, S, S) uint8, or as stored, and the boxes on them."""
        self._refuse_blamed(self.clips.name(index), epoch)
        place = self.clips.place(index)
        frames: torch.Tensor | EncodedFrames
        if self.encoded:
            clip = read_encoded(self._guard, place, self.shape)
        else:
            clip = read_clip(self._guard, place, self.shape, self.decoder)
        if isinstance(clip.frames, EncodedFrames):
            frames = clip.frames
        else:
            self._note(clip, self.clips.source(index), clip.frames.notes)
            frames = resize_and_crop(clip.frames.frames_THWC, self.shape.side)
        read = clip.row, frames, clip.boxes
        if self._cached_bytes + frames.nbytes <= self.cache_bytes:
            self._cached_bytes += frames.nbytes
            self._cache[self.clips.source(index)] = read
        return read

    def _note(self, clip: ReadClip, source: int, notes: Sequence[str]) -> None:
        if (clip.fallback or notes) and source not in self._noted:  # a long run would repeat it every epoch
            self._noted.add(source)
            if clip.fallback:
                self.ledger.record("fallback", clip.row.id, clip.fallback)
            for note in notes:
                self.ledger.record("note", clip.row.id, note)

    def _refuse_blamed(self, name: str, epoch: int) -> None:
        if epoch != self._blamed_epoch:  # other processes blame too, and a resumed run reads what all have
            self._blamed_epoch = epoch
            self._blamed |= self.ledger.blamed()
        blame = self._blamed.get(name)
        if blame is not None and epoch >= blame.epoch:
            raise DecodeError("blamed", blame.reason)

    def _id(self, index: int) -> str:
        try:
            return self.clips.row(index).id
        except (DecodeError, ValueError):  # of a damaged shard
            return f"number {index}"

    def _blame(self, clip: str, index: int, reason: str, path: str, epoch: int) -> None:
        """On record before the replacement is used: a resumed run sees the same clips and does not try again."""
        name = self.clips.name(index)
        self._blamed[name] = Blame(epoch, reason)
        self.ledger.record("blamed", clip, reason, path=path, epoch=epoch, name=name)


def guard_of_clips(timeout_seconds: float, memory_bytes: int = MEMORY_BYTES) -> Guard:
    """For a :class:`ClipDataset`; see there."""
    return Guard(timeout_seconds, longest_call=_LONGEST_CALL, memory_bytes=memory_bytes)


def _finding(error: Exception) -> DecodeError:
    finding = as_finding(error)
    assert isinstance(finding, DecodeError)
    return finding


def sample_of(
    clip: str,
    frames_TCHW: torch.Tensor | EncodedFrames,
    boxes: ClipBoxes,
    text: Caption,
    max_tokens: int,
    *,
    key: SampleKey,
    attempt: int = 0,
) -> Sample:
    """A sample of its parts."""
    encoded = encode_caption(text, max_tokens)
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
        clip_key=stable_hash(clip),
        caption_key=stable_hash(*encoded.tokens_L),
        prefix=encoded.prefix,
        target=encoded.target,
        key=key,
        attempt=attempt,
        dropped_boxes=boxes.dropped,
    )


class Bundle(NamedTuple):
    """A batch on its way from a loader process: its frames, and the samples without theirs."""

    frames_BTCHW: torch.Tensor
    samples: list[Sample]


def bundle(samples: Sequence[Sample]) -> Bundle:
    """Stack the frames, in a loader process into shared memory. What else there is stays as it is: a tensor of its own
    would cost more to pass on than its content."""
    frames_BTCHW = default_collate([sample.frames_TCHW for sample in samples])
    return Bundle(frames_BTCHW, [sample._replace(frames_TCHW=None) for sample in samples])


def collate(samples: Sequence[Sample], frames_BTCHW: torch.Tensor | None = None) -> LoadedBatch:
    """Stack samples into a batch, with the frames given where theirs were yet to be decoded."""

    def stack(name: str) -> torch.Tensor:
        return torch.from_numpy(np.stack([getattr(sample, name) for sample in samples]))

    def numbers(name: str) -> torch.Tensor:
        return torch.tensor([getattr(sample, name) for sample in samples], dtype=torch.int64)

    if frames_BTCHW is None:
        frames_BTCHW = bundle(samples).frames_BTCHW
    batch = VideoTextBatch(
        frames_BTCHW=frames_BTCHW,
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
        prefix_B=numbers("prefix"),
        target_B=numbers("target"),
    )
    return LoadedBatch(batch, sum(s.replaced for s in samples), sum(s.dropped_boxes for s in samples))


def stable_hash(*parts: object) -> int:
    """Non-negative 63-bit hash, the same in every process and run."""
    digest = hashlib.blake2b("\x1f".join(map(str, parts)).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1
