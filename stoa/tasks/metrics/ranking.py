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
    r50: float
    median_rank: float
    mean_rank: float
    num_queries: int

    def to_dict(self) -> dict[str, float]:
        return asdict(self)


def rank_metrics(scores_QG: torch.Tensor, relevant_QG: torch.Tensor) -> RankMetrics:
    """Metrics of the best-placed relevant item of each query.

    Ties are averaged over all their orders, so a constant scorer gets chance, neither all nor nothing.

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
    better_Q = (scores_QG > best_Q1).sum(dim=1).double()
    tied_QG = scores_QG == best_Q1
    hits_Q = (tied_QG & relevant_QG).sum(dim=1).double()
    tied_Q = tied_QG.sum(dim=1).double()
    # The first of h relevant items among n in random order stands at (n + 1) / (h + 1) on average.
    rank_Q = better_Q + (tied_Q + 1) / (hits_Q + 1)

    def recall(k: int) -> float:
        places_Q = (k - better_Q).clamp(min=0).minimum(tied_Q)
        return float((1 - _none_in_front(tied_Q, hits_Q, places_Q)).mean() * 100)

    return RankMetrics(
        r1=recall(1),
        r5=recall(5),
        r10=recall(10),
        r50=recall(50),
        median_rank=float(rank_Q.quantile(0.5)),
        mean_rank=float(rank_Q.mean()),
        num_queries=len(scores_QG),
    )


def chance_metrics(relevant_QG: torch.Tensor) -> RankMetrics:
    """What a scorer that knows nothing gets, on average."""
    return rank_metrics(torch.zeros(relevant_QG.shape, device=relevant_QG.device), relevant_QG)


def _none_in_front(n: torch.Tensor, h: torch.Tensor, k: torch.Tensor) -> torch.Tensor:
    """Probability that none of h items is among the first k of n in random order: C(n-h, k) / C(n, k)."""

    def log_choose(m: torch.Tensor) -> torch.Tensor:
        return torch.lgamma(m + 1) - torch.lgamma((m - k).clamp(min=0) + 1)

    possible = n - h >= k
    return torch.where(possible, (log_choose(n - h) - log_choose(n)).exp(), 0.0)
