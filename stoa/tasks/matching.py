"""Which nouns the trajectories of a gallery are matched to, compared with what they truly show.

Shape legend: Q captions, N trajectories, L text tokens.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass

import torch

from stoa.objectives.config import NullToken
from stoa.objectives.matching import at_columns, judge_match, match_rows, null_positions, word_columns
from stoa.tasks.gallery import Gallery
from stoa.tasks.trained import TrainedModel


@dataclass(frozen=True, slots=True)
class MatchAccuracy:
    """Percent of matches to nouns of known class that are right, and what a random one-to-one match would get."""

    accuracy: float
    chance: float
    matches: int

    def to_dict(self) -> dict[str, float]:
        return asdict(self)


@torch.inference_mode()
def evaluate_matching(trained: TrainedModel, gallery: Gallery, *, null_token: NullToken) -> dict[str, MatchAccuracy]:
    """Match the trajectories of every caption's own video to its nouns.

    Args:
        trained: a model with trajectories.
        gallery: encoded by it.
        null_token: of its objectives.

    Returns:
        accuracy over clips whose objects differ in class (``distinct``) and over those with ``twins``, two objects of
        one class, which one trajectory joins; without a match to judge the entry is left out.
    """
    if not (gallery.noun_labels_QL >= 0).any() or not gallery.truth_known_V.any():
        return {}
    video_Q = gallery.video_of_text_Q
    labels_QN = gallery.trajectory_labels_VN[video_Q]
    model = trained.model
    rows_QNd = model.word_head(gallery.video_tokens_VGd[:, model.fusion.slot("objects")])[video_Q]
    columns = word_columns(gallery.noun_QL, null_positions(gallery.text_mask_QL, null_token))
    text_QLd = gallery.tokens_of_texts(torch.arange(len(video_Q), device=video_Q.device))
    match = match_rows(rows_QNd, labels_QN >= 0, at_columns(text_QLd, columns), columns)
    truth = judge_match(
        match,
        columns,
        gallery.trajectory_classes_VN[video_Q],
        gallery.noun_labels_QL,
        gallery.truth_known_V[video_Q],
    )
    twins_Q = gallery.twins_V[video_Q]
    results = {}
    for name, chosen_Q in (("distinct", ~twins_Q), ("twins", twins_Q)):
        judged, right, by_chance = (float(counts_Q[chosen_Q].sum()) for counts_Q in truth)
        if judged:
            results[name] = MatchAccuracy(100 * right / judged, 100 * by_chance / judged, int(judged))
    return results
