"""trajectory_attention against attention computed group by group."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from stoa.ops import trajectory_attention


def oracle(q, k, v, labels, q_labels):
    """Every query row on its own, over the tokens of its label."""
    out = torch.zeros_like(q)
    for b in range(q.shape[0]):
        for i, label in enumerate(q_labels[b].tolist()):
            own = (labels[b] == label).nonzero().squeeze(1)
            if label >= 0 and len(own):
                weight = (q[b, :, i : i + 1] @ k[b][:, own].transpose(1, 2) / q.shape[-1] ** 0.5).softmax(dim=-1)
                out[b, :, i] = (weight @ v[b][:, own])[:, 0]
    return out


@settings(max_examples=40, deadline=None)
@given(
    shape=st.tuples(st.integers(1, 3), st.integers(1, 2), st.integers(1, 9), st.integers(1, 5)),
    queries=st.one_of(st.none(), st.integers(1, 4)),
    seed=st.integers(0, 1000),
)
def test_equals_attention_group_by_group(shape, queries, seed):
    generator = torch.Generator().manual_seed(seed)
    B, H, S, D = shape
    k, v = (torch.randn(*shape, generator=generator, dtype=torch.float64) for _ in range(2))
    q = torch.randn(B, H, queries or S, D, generator=generator, dtype=torch.float64)
    labels = torch.randint(-1, 3, (B, S), generator=generator)
    q_labels = None if queries is None else torch.randint(-1, 4, (B, queries), generator=generator)
    out = trajectory_attention(q, k, v, labels, q_labels)
    expected = oracle(q, k, v, labels, labels if q_labels is None else q_labels)
    torch.testing.assert_close(out, expected, atol=1e-10, rtol=1e-10)


def test_equals_sdpa_with_the_mask():
    generator = torch.Generator().manual_seed(1)
    q, k, v = (torch.randn(2, 3, 14, 8, generator=generator, dtype=torch.float64) for _ in range(3))
    labels = torch.randint(0, 4, (2, 14), generator=generator)
    mask = labels[:, None, :, None] == labels[:, None, None, :]
    expected = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
    torch.testing.assert_close(trajectory_attention(q, k, v, labels), expected)


def test_gradient():
    generator = torch.Generator().manual_seed(2)
    q, k, v = (torch.randn(2, 1, 5, 3, generator=generator, dtype=torch.float64, requires_grad=True) for _ in range(3))
    labels = torch.tensor([[0, 1, 0, -1, 1], [-1, -1, -1, -1, -1]])
    assert torch.autograd.gradcheck(lambda q, k, v: trajectory_attention(q, k, v, labels), (q, k, v))
    trajectory_attention(q, k, v, labels)[1].sum().backward()
    assert torch.equal(k.grad[1], torch.zeros_like(k.grad[1]))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"k": torch.zeros(2, 4, 3)}, r"k and v must be \(B, H, S, D\)"),
        ({"q": torch.zeros(2, 2, 4, 3)}, r"q must be \(2, 1, Q, 3\) like k"),
        ({"labels": torch.zeros(2, 4)}, r"labels must be \(2, 4\) int64, got \(2, 4\) torch.float32"),
        ({"q_labels": torch.zeros(2, 3).long()}, r"q_labels must be \(2, 4\) int64"),
    ],
)
def test_a_wrong_argument_is_named(change, message):
    q, k, v = (torch.zeros(2, 1, 4, 3) for _ in range(3))
    arguments = {"q": q, "k": k, "v": v, "labels": torch.zeros(2, 4).long()}
    with pytest.raises(ValueError, match=message):
        trajectory_attention(**{**arguments, **change})
