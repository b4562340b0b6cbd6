"""The batch that travels from the loader to the losses.

Shape legend: B clips, T frames, C channels, H height, W width, K boxes per frame, L text tokens.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import torch


@dataclass(frozen=True, slots=True)
class VideoTextBatch:
    """Clips with one caption each, on one device.

    Attributes:
        frames_BTCHW: uint8, RGB; normalised by the model on its device.
        tokens_BL: int64, CLIP BPE ids: start, words, end, then padding.
        text_mask_BL: bool, True up to and including the end token. Padding is told by this mask alone:
            id 0 is a real token.
        noun_mask_BL, verb_mask_BL: bool, tokens that are (parts of) common nouns and main verbs.
        word_end_BL: bool, the last token of each noun and verb, where it has not been cut off.
        noun_labels_BL: int64, at the last token of a noun its class in the label vocabulary; -1 elsewhere and where
            not known. For metrics, never an input.
        boxes_BTK4: float32, x1, y1, x2, y2 in [0, 1] of the frame as the model sees it.
        labels_BTK: int64, class index in the label vocabulary; -1 marks an empty slot.
        scores_BTK: float32, detector confidence; 0 in empty slots.
        true_labels_BTK: int64, class of the object that a box really shows, -1 for none and where the data do not
            know. For metrics, never an input.
        clip_keys_B, caption_keys_B: int64, hashes that are equal for the same clip and the same caption.
        position_B: int64, place of the clip in the global batch; keys the counter-based generator.
        prefix_B: int64, tokens of a text that are given, the rest being to be said; 0 where the data do not say.
        target_B: int64, class of the answer to a question; -1 for none.

    Raises:
        ValueError: a field disagrees in shape or dtype; the message names it.
    """

    frames_BTCHW: torch.Tensor
    tokens_BL: torch.Tensor
    text_mask_BL: torch.Tensor
    noun_mask_BL: torch.Tensor
    verb_mask_BL: torch.Tensor
    word_end_BL: torch.Tensor
    noun_labels_BL: torch.Tensor
    boxes_BTK4: torch.Tensor
    labels_BTK: torch.Tensor
    scores_BTK: torch.Tensor
    true_labels_BTK: torch.Tensor
    clip_keys_B: torch.Tensor
    caption_keys_B: torch.Tensor
    position_B: torch.Tensor
    prefix_B: torch.Tensor
    target_B: torch.Tensor

    def __post_init__(self) -> None:
        if self.frames_BTCHW.ndim != 5 or self.tokens_BL.ndim != 2 or self.labels_BTK.ndim != 3:
            raise ValueError(
                f"frames_BTCHW {tuple(self.frames_BTCHW.shape)}, tokens_BL {tuple(self.tokens_BL.shape)} and "
                f"labels_BTK {tuple(self.labels_BTK.shape)} must have 5, 2 and 3 dimensions"
            )
        B, T, _, _, _ = self.frames_BTCHW.shape
        L, K = self.tokens_BL.shape[1], self.labels_BTK.shape[2]
        expected = {
            "frames_BTCHW": (tuple(self.frames_BTCHW.shape), torch.uint8),
            "tokens_BL": ((B, L), torch.int64),
            "text_mask_BL": ((B, L), torch.bool),
            "noun_mask_BL": ((B, L), torch.bool),
            "verb_mask_BL": ((B, L), torch.bool),
            "word_end_BL": ((B, L), torch.bool),
            "noun_labels_BL": ((B, L), torch.int64),
            "boxes_BTK4": ((B, T, K, 4), torch.float32),
            "labels_BTK": ((B, T, K), torch.int64),
            "scores_BTK": ((B, T, K), torch.float32),
            "true_labels_BTK": ((B, T, K), torch.int64),
            "clip_keys_B": ((B,), torch.int64),
            "caption_keys_B": ((B,), torch.int64),
            "position_B": ((B,), torch.int64),
            "prefix_B": ((B,), torch.int64),
            "target_B": ((B,), torch.int64),
        }
        for name, (shape, dtype) in expected.items():
            tensor = getattr(self, name)
            if tuple(tensor.shape) != shape or tensor.dtype != dtype:
                raise ValueError(f"{name} is {tuple(tensor.shape)} {tensor.dtype}; expected {shape} {dtype}")

    def __repr__(self) -> str:
        shapes = (f"{f.name}={tuple(getattr(self, f.name).shape)}" for f in dataclasses.fields(self))
        return f"VideoTextBatch({', '.join(shapes)}, device={self.frames_BTCHW.device})"

    def __len__(self) -> int:
        return self.tokens_BL.shape[0]

    def to(self, device: torch.device | str, *, non_blocking: bool = False) -> VideoTextBatch:
        return self._map(lambda t: t.to(device, non_blocking=non_blocking))

    def rows(self, rows: slice) -> VideoTextBatch:
        """Some of the clips."""
        return self._map(lambda t: t[rows])

    def pin_memory(self) -> VideoTextBatch:
        return self._map(lambda t: t.pin_memory())

    def _map(self, function) -> VideoTextBatch:  # type: ignore[no-untyped-def]
        return VideoTextBatch(**{f.name: function(getattr(self, f.name)) for f in dataclasses.fields(self)})
