"""What an explanation of a clip holds.

Shape legend: T frames, S side of a frame, P patches of a frame, E edges of a patch.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, slots=True)
class Word:
    """A word of the caption, as the tokenizer cuts it.

    Attributes:
        text: lower case.
        likelihood: probability that the model gives it after the words before it and the video; ``None`` where it has
            not learned to predict words, or has no such word.
    """

    text: str
    likelihood: float | None


@dataclass(frozen=True, slots=True)
class MatchedWord:
    """The word that a trajectory or an action token is matched to.

    Attributes:
        word: ``None`` for the null: the token stands for no word of the caption.
        index: of it among :attr:`Explanation.words`, -1 for the null.
        probability: of the match; ``None`` where the model has not learned to match, and the word is the one of the
            largest cosine.
        cosine: of token and word.
    """

    word: str | None
    index: int
    probability: float | None
    cosine: float

    @property
    def strength(self) -> str:
        """For people."""
        return f"cos {self.cosine:z.2f}" if self.probability is None else f"{self.probability:.0%}"


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
class ActionToken:
    """One action token.

    Attributes:
        matched: ``None`` where it has no word of its own.
        attention_TYX: float32, the share of each frame that it takes from each patch of the grid, by rows.
        boxes: per frame, those that it can take from as (n, 4) x1, y1, x2, y2 in [0, 1].
        box_shares: per frame, float32 (n,), what it takes from each; with the patches' they sum to 1.
    """

    matched: MatchedWord | None
    attention_TYX: np.ndarray
    boxes: list[np.ndarray]
    box_shares: list[np.ndarray]

    @property
    def most(self) -> float:
        """That it takes of any patch or box."""
        return max(float(shares.max(initial=0.0)) for shares in (self.attention_TYX, *self.box_shares))


@dataclass(frozen=True, slots=True)
class Graph:
    """The graph of patches, as its last layer uses it.

    Attributes:
        grid_hw: rows and columns of the patches of a frame.
        targets_TPE: int32, for each patch the patches that it sees most, the strongest first, counted through all
            frames (frame * P + patch); -1 where it has fewer edges. The edge to itself is not among them.
        weights_TPE: float32, attention along the edge, the mean of the heads.
        cosines_TPE: float32, likeness of the two, which makes the edge.
        density: share of the possible edges that there are.
        threshold: least cosine of an edge.
        reach: frames on either side that a patch sees; ``None`` is all.
    """

    grid_hw: tuple[int, int]
    targets_TPE: np.ndarray
    weights_TPE: np.ndarray
    cosines_TPE: np.ndarray
    density: float
    threshold: float
    reach: int | None


@dataclass(frozen=True, slots=True)
class Explanation:
    """One clip and a caption as the model sees them.

    Attributes:
        clip: id or file name.
        caption: the text as given.
        frames_TSS3: uint8, RGB, the frames that the model sees.
        words: of the caption, as far as the model reads it.
        tracks: trajectories, the most confident first; empty for a model without objects.
        actions: action tokens; empty for a model without them.
        graph: ``None`` for a model without one.
        match: probability that the caption is of the clip, by the matching head; ``None`` where that was not trained.
        cosine: of the two towers' vectors.
        tagged_by: how it is known which words are nouns and verbs, for people.
        notes: what else is to be known of it, a line each.
    """

    clip: str
    caption: str
    frames_TSS3: np.ndarray
    words: list[Word]
    tracks: list[Track]
    actions: list[ActionToken]
    graph: Graph | None
    match: float | None
    cosine: float
    tagged_by: str
    notes: list[str]
