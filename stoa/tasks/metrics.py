"""Ranking metrics, with ties counted as a random order would break them.

Shape legend: Q queries, G gallery items.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass

import torch


@dataclass(frozen=True, slots=True)
class RankMetrics:
    """Recall at k (percent), median and mean rank (1 is best), over ``num_queries`` queries."""

    r1: float
    r5: float
    r10: float
    median_rank: float
    mean_rank: float
    num_queries: int

    def to_dict(self) -> dict[str, float]:
        return asdict(self)


def rank_metrics(scores_QG: torch.Tensor, relevant_QG: torch.Tensor) -> RankMetrics:
    """Metrics of the best-placed relevant item of each query.

    A tie with ``n`` irrelevant items is the average over all their orders, so a constant scorer gets
    chance, neither all nor nothing.

    Args:
        scores_QG: higher is better; finite or -inf.
        relevant_QG: bool; at least one True a row.

    Raises:
        ValueError: a NaN score, or a query without a relevant item.
    """
    if torch.isnan(scores_QG).any():
        raise ValueError("scores hold NaN; the model that made them has diverged")
    if not relevant_QG.any(dim=1).all():
        raise ValueError(f"query {int((~relevant_QG.any(dim=1)).nonzero()[0])} has no relevant item in the gallery")
    best_Q1 = scores_QG.masked_fill(~relevant_QG, -torch.inf).amax(dim=1, keepdim=True)
    better_Q = ((scores_QG > best_Q1) & ~relevant_QG).sum(dim=1).double()
    tied_Q = ((scores_QG == best_Q1) & ~relevant_QG).sum(dim=1).double()
    rank_Q = 1 + better_Q + tied_Q / 2

    def recall(k: int) -> float:
        return float(((k - better_Q) / (tied_Q + 1)).clamp(0, 1).mean() * 100)

    return RankMetrics(recall(1), recall(5), recall(10), float(rank_Q.median()), float(rank_Q.mean()), len(scores_QG))


def chance_metrics(num_gallery: int, num_queries: int) -> RankMetrics:
    """What a scorer that knows nothing gets, with one relevant item a query."""
    r1, r5, r10 = (min(100.0, 100.0 * k / num_gallery) for k in (1, 5, 10))
    return RankMetrics(r1, r5, r10, (num_gallery + 1) / 2, (num_gallery + 1) / 2, num_queries)
