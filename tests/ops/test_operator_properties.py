"""Random sizes of the operators, by hypothesis."""

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from test_roi_align_max import assert_equals_torchvision
from test_roi_align_max import everywhere as pooled_everywhere
from test_trajectory_attention import assert_equals_oracle
from test_trajectory_attention import everywhere as attended_everywhere

from stoa.ops import batched_assignment


@pooled_everywhere
@settings(max_examples=60)
@given(
    grid=st.tuples(st.integers(1, 9), st.integers(1, 9)),
    output=st.one_of(st.none(), st.tuples(st.integers(1, 9), st.integers(1, 9))),
    frames=st.integers(1, 3),
    count=st.integers(0, 4),
    channels=st.integers(1, 5),
    seed=st.integers(0, 1000),
)
def test_roi_align_max_equals_torchvision(pool, grid, output, frames, count, channels, seed):
    assert_equals_torchvision(pool, grid, output, frames, count, channels, seed)


@attended_everywhere
@settings(max_examples=40)
@given(
    shape=st.tuples(st.integers(1, 3), st.integers(1, 2), st.integers(1, 9), st.integers(1, 5)),
    queries=st.one_of(st.none(), st.integers(1, 4)),
    seed=st.integers(0, 1000),
)
def test_trajectory_attention_equals_its_groups(attend, shape, queries, seed):
    assert_equals_oracle(attend, shape, queries, 3, seed)


@settings(max_examples=60)
@given(st.integers(1, 8), st.integers(0, 4), st.integers(0, 2**31))
def test_permuted_rows_and_shifted_rows(rows: int, more_cols: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    cols = rows + more_cols
    # Two totals of random doubles are not equal, so the optimum is unique.
    cost = torch.rand(1, rows, cols, generator=generator, dtype=torch.float64)
    match, _ = batched_assignment(cost)
    order = torch.randperm(rows, generator=generator)
    assert torch.equal(batched_assignment(cost[:, order])[0], match[:, order])
    shift = torch.randint(-8, 8, (1, rows, 1), generator=generator)
    assert torch.equal(batched_assignment(cost + shift)[0], match)
