"""Ranking metrics against a plain count, and their treatment of ties."""

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from stoa.tasks.metrics.ranking import chance_metrics, rank_metrics


def by_permutations(scores: list[float], relevant: list[bool], k: int) -> tuple[float, float]:
    """Recall at k and rank of the best relevant item, over all orders of equal scores."""
    ranks = []
    for order in itertools.permutations(range(len(scores))):
        placed = sorted(range(len(scores)), key=lambda i: (-scores[i], order[i]))
        ranks.append(1 + [relevant[i] for i in placed].index(True))
    return 100 * float(np.mean([rank <= k for rank in ranks])), float(np.mean(ranks))


@given(
    scores=st.lists(st.sampled_from([0.0, 1.0, 2.0, -1.0]), min_size=1, max_size=6),
    data=st.data(),
)
def test_metrics_are_the_mean_over_all_orders_of_ties(scores, data):
    relevant = data.draw(st.lists(st.booleans(), min_size=len(scores), max_size=len(scores)).filter(any))
    found = rank_metrics(torch.tensor([scores]), torch.tensor([relevant]))
    recall, rank = by_permutations(scores, relevant, 1)
    assert found.r1 == pytest.approx(recall)
    assert found.mean_rank == pytest.approx(rank)
    assert found.r5 == pytest.approx(by_permutations(scores, relevant, 5)[0])


def test_a_constant_scorer_gets_chance():
    found = rank_metrics(torch.zeros(50, 200), torch.eye(200, dtype=torch.bool)[:50])
    assert found == chance_metrics(torch.eye(200, dtype=torch.bool)[:50])
    assert (found.r1, found.r10, found.r50, found.median_rank) == pytest.approx((0.5, 5.0, 25.0, 100.5))


def test_several_captions_a_video():
    """From video to text the best of its captions counts."""
    scores = torch.tensor([[0.1, 0.9, 0.5, 0.2]])
    assert rank_metrics(scores, torch.tensor([[True, False, True, False]])).mean_rank == 2


def test_the_median_of_an_even_number_is_between_the_two():
    relevant = torch.eye(4, dtype=torch.bool)[:2]
    scores = torch.tensor([[3.0, 2.0, 1.0, 0.0], [3.0, 0.0, 2.0, 1.0]])
    assert rank_metrics(scores, relevant).median_rank == 2.5


def test_what_cannot_be_ranked_is_named():
    with pytest.raises(ValueError, match="scores hold NaN"):
        rank_metrics(torch.tensor([[float("nan"), 1.0]]), torch.tensor([[True, False]]))
    with pytest.raises(ValueError, match="query 1 has no relevant item"):
        rank_metrics(torch.zeros(2, 2), torch.tensor([[True, False], [False, False]]))
