"""Whatever an operator is given, it computes, or refuses in words; what it computes are places that exist."""

import os

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from stoa.ops import batched_assignment, quick_gelu, roi_align_max, trajectory_attention

EXAMPLES = int(os.environ.get("FUZZ_EXAMPLES", "100"))
FLOATS = [torch.float16, torch.bfloat16, torch.float32, torch.float64]
DTYPES = [*FLOATS, torch.int64, torch.int32, torch.bool, torch.complex64]
NUMBERS = [0.0, -0.0, 1.0, -1.0, 0.5, 1e30, -1e30, float("inf"), -float("inf"), float("nan"), 1e-40]
SIZES = st.integers(0, 4)
COUNTS = st.integers(-3, 6) | st.sampled_from([-(2**63), 2**31, 2**40, 2**63 - 1])


@st.composite
def tensors(draw, shape, dtype):
    """Of this shape and dtype, mostly; with odd numbers in it, and laid out in any way."""
    if draw(st.integers(0, 9)) == 0:
        shape = tuple(draw(st.lists(SIZES, max_size=5)))
    if draw(st.integers(0, 9)) == 0:
        dtype = draw(st.sampled_from(DTYPES))
    result = torch.rand(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(draw(st.integers(0, 99))))
    for _ in range(draw(st.integers(0, 2))):
        if result.numel():
            result.view(-1)[draw(st.integers(0, result.numel() - 1))] = draw(st.sampled_from(NUMBERS))
    if not dtype.is_floating_point and not dtype.is_complex:
        result = (result.nan_to_num(0.5, 2.0, -2.0).clamp(-2, 2) * 3).round()
    result = result.to(dtype)
    layout = draw(st.integers(0, 3))
    if layout == 1 and result.dim() > 1:
        result = result.transpose(0, -1).contiguous().transpose(0, -1)
    elif layout == 2:
        result = torch.stack([result, result], dim=-1)[..., 1]
    elif layout == 3 and result.dim() and result.shape[0]:
        result = result[:1].expand(result.shape)
    return result.requires_grad_(dtype.is_floating_point and draw(st.booleans()))


def computes_or_refuses(operator, *arguments, **settings):
    try:
        results = operator(*arguments, **settings)
    except ValueError as error:
        assert str(error)
        return None
    results = results if isinstance(results, tuple) else (results,)
    for result in results:
        if result.requires_grad:
            result.sum().backward()
    return results


@settings(max_examples=EXAMPLES)
@given(st.data())
def test_roi_align_max(data):
    (f, h, w, c, k), dtype = data.draw(st.tuples(*[SIZES] * 5)), data.draw(st.sampled_from(FLOATS))
    tokens = data.draw(tensors((f, h * w, c), dtype))
    boxes = data.draw(tensors((f, k, 4), data.draw(st.sampled_from([dtype, torch.float32]))))
    valid = data.draw(tensors((f, k), torch.bool))
    grids = st.sampled_from([(h, w), (w, h), (-h, -w), (h * w, 1), (h * w, 1.0)]) | st.tuples(COUNTS, COUNTS)
    output = st.none() | st.tuples(st.integers(1, 6), st.integers(1, 6)) | st.tuples(COUNTS, COUNTS)
    grid_hw, output_size = data.draw(grids), data.draw(output)
    results = computes_or_refuses(roi_align_max, tokens, boxes, valid, grid_hw=grid_hw, output_size=output_size)
    if results is not None:
        bins = (output_size or grid_hw)[0] * (output_size or grid_hw)[1]
        assert results[1].numel() == 0 or (results[1].min() >= -1 and results[1].max() < bins)


@settings(max_examples=EXAMPLES)
@given(st.data())
def test_trajectory_attention(data):
    (b, h, s, d, n), dtype = data.draw(st.tuples(*[SIZES] * 5)), data.draw(st.sampled_from(FLOATS))
    k, v = (data.draw(tensors((b, h, s, d), dtype)) for _ in range(2))
    labels = data.draw(tensors((b, s), torch.int64))
    q = data.draw(tensors((b, h, n, d), dtype))
    q_labels = data.draw(tensors((b, n), torch.int64))
    computes_or_refuses(trajectory_attention, q, k, v, labels, q_labels)


@settings(max_examples=EXAMPLES)
@given(st.data())
def test_batched_assignment(data):
    (b, r, c), dtype = data.draw(st.tuples(SIZES, SIZES, SIZES)), data.draw(st.sampled_from(FLOATS))
    cost = data.draw(tensors((b, r, c), dtype))
    counts = st.none() | tensors((b,), torch.int64) | COUNTS.map(lambda count: torch.full((b,), count))
    results = computes_or_refuses(batched_assignment, cost, data.draw(counts), data.draw(counts))
    if results is not None:
        match, _ = results
        assert match.shape == cost.shape[:2] and (
            match.numel() == 0 or (match.min() >= -1 and match.max() < cost.shape[2])
        )


@settings(max_examples=EXAMPLES)
@given(st.data())
def test_quick_gelu(data):
    shape = tuple(data.draw(st.lists(SIZES, max_size=4)))
    computes_or_refuses(quick_gelu, data.draw(tensors(shape, data.draw(st.sampled_from(FLOATS)))))


@pytest.mark.parametrize("argument", [None, 3, [1.0], "x"])
@pytest.mark.parametrize("operator", [roi_align_max, trajectory_attention, batched_assignment, quick_gelu])
def test_what_is_no_tensor(operator, argument):
    """Is a mistake of the program that calls it."""
    others = {roi_align_max: 2, trajectory_attention: 4}.get(operator, 0)
    settings = {"grid_hw": (1, 1)} if operator is roi_align_max else {}
    with pytest.raises((AttributeError, TypeError)):
        operator(argument, *[torch.ones(1, 1, 1)] * others, **settings)
