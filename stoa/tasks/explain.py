"""What a model makes of one clip: its trajectories, its action tokens, and the words they are matched to.

Shape legend: T frames, K boxes per frame, N trajectories, M action tokens, C columns, S side of a frame, d joint width.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from stoa.data.boxes import ClipShape
from stoa.data.clips import FileClips
from stoa.data.dataset import ClipDataset, collate
from stoa.data.text import word_ending_at
from stoa.manifest import ClipRow
from stoa.objectives.config import NullToken
from stoa.objectives.matching import Columns, at_columns, match_probabilities, match_rows, null_positions, word_columns
from stoa.tasks.trained import TrainedModel


@dataclass(frozen=True, slots=True)
class MatchedWord:
    """The word of the caption that a token is matched to, ``None`` for the null, and its probability."""

    word: str | None
    probability: float


@dataclass(frozen=True, slots=True)
class Track:
    """One trajectory.

    Attributes:
        name: of its class.
        boxes: per frame, the boxes of that class as (n, 4) x1, y1, x2, y2 in [0, 1].
        matched: ``None`` where the trajectory has no word of its own.
    """

    name: str
    boxes: list[np.ndarray]
    matched: MatchedWord | None


@dataclass(frozen=True, slots=True)
class Explanation:
    """One clip as the model sees it.

    Attributes:
        clip: its id.
        caption: the text.
        frames_TSS3: uint8.
        tracks: trajectories, the most confident first; empty for a model without objects.
        actions: what each action token is matched to; ``None`` for an unmatched one.
    """

    clip: str
    caption: str
    frames_TSS3: np.ndarray
    tracks: list[Track]
    actions: list[MatchedWord | None]


@torch.inference_mode()
def explain(
    trained: TrainedModel,
    row: ClipRow,
    root: Path,
    *,
    class_names: Sequence[str] = (),
    null_token: NullToken = "end",
) -> Explanation:
    """Match the tokens of a clip to the words of its first caption.

    Args:
        trained: the model.
        row: of a manifest.
        root: folder the row's paths are relative to.
        class_names: of the label vocabulary; a class beyond them is called by its number.
        null_token: of the model's objectives.

    Raises:
        ValueError: the clip cannot be read.
    """
    model, config = trained.model, trained.model.config
    shape = ClipShape(
        num_frames=config.num_frames, side=trained.side, max_tokens=config.max_tokens, max_boxes=config.num_boxes
    )
    batch = collate([ClipDataset(FileClips([row], root), shape, seed=0).load(0)]).batch.to(trained.device)
    video, text = model.encode_video(batch), model.encode_text(batch.tokens_BL, batch.text_mask_BL)
    null_B = null_positions(batch.text_mask_BL, null_token)
    tokens_L = batch.tokens_BL[0].tolist()

    def words_of(rows_BRd: torch.Tensor, word_BL: torch.Tensor, valid_BR: torch.Tensor) -> list[MatchedWord | None]:
        columns = word_columns(word_BL & batch.word_end_BL, null_B)
        words_BCd = at_columns(text.tokens_BLd, columns)
        match = match_rows(rows_BRd, valid_BR, words_BCd, columns)
        probability_RC = match_probabilities(rows_BRd, words_BCd, columns)[0]
        return [
            _matched(int(column), probability_RC[r], columns, tokens_L) for r, column in enumerate(match.column_BR[0])
        ]

    tracks: list[Track] = []
    actions: list[MatchedWord | None] = []
    if config.objects.num_trajectories:
        labels_BN = video.trajectory_labels_BN
        nouns = words_of(model.word_head(model.group(video, "objects")), batch.noun_mask_BL, labels_BN >= 0)
        boxes_TK4, labels_TK = batch.boxes_BTK4[0].cpu().numpy(), batch.labels_BTK[0].cpu().numpy()
        for label, noun in zip(labels_BN[0].tolist(), nouns, strict=True):
            if label >= 0:
                name = class_names[label] if label < len(class_names) else f"class {label}"
                boxes = [boxes_K4[labels_K == label] for boxes_K4, labels_K in zip(boxes_TK4, labels_TK, strict=True)]
                tracks.append(Track(name, boxes, noun))
    if config.actions.num_tokens:
        every_M = torch.ones(1, config.actions.num_tokens, dtype=torch.bool, device=trained.device)
        actions = words_of(model.group(video, "actions"), batch.verb_mask_BL, every_M)
    frames_TSS3 = batch.frames_BTCHW[0].permute(0, 2, 3, 1).cpu().numpy()
    return Explanation(row.id, row.captions[0].text, frames_TSS3, tracks, actions)


def _matched(column: int, probability_C: torch.Tensor, columns: Columns, tokens_L: Sequence[int]) -> MatchedWord | None:
    if column < 0:
        return None
    is_null = column == int(columns.count_B[0]) - 1
    word = None if is_null else word_ending_at(tokens_L, int(columns.position_BC[0, column]))
    return MatchedWord(word, float(probability_C[column]))
