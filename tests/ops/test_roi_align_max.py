"""roi_align_max against torchvision's RoIAlign and a maximum."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torchvision.ops import roi_align

from stoa.ops import roi_align_max


def random_boxes(frames: int, boxes: int, generator: torch.Generator) -> torch.Tensor:
    corners = torch.rand(frames, boxes, 2, 2, generator=generator, dtype=torch.float64).sort(dim=-2).values
    return torch.cat([corners[..., 0, :], corners[..., 1, :]], dim=-1)


def all_bins(tokens, boxes, grid_hw, output_size):
    """(F, K, C, O) from torchvision's own RoIAlign."""
    h, w = grid_hw
    frames, count, _ = boxes.shape
    maps = tokens.transpose(1, 2).reshape(frames, -1, h, w)
    scaled = boxes * boxes.new_tensor([w, h, w, h])
    bins = roi_align(maps, list(scaled), output_size, spatial_scale=1.0, sampling_ratio=-1, aligned=True)
    return bins.view(frames, count, tokens.shape[2], output_size[0] * output_size[1])


@settings(max_examples=60, deadline=None)
@given(
    grid=st.tuples(st.integers(1, 9), st.integers(1, 9)),
    output=st.one_of(st.none(), st.tuples(st.integers(1, 9), st.integers(1, 9))),
    frames=st.integers(1, 3),
    count=st.integers(0, 4),
    channels=st.integers(1, 5),
    seed=st.integers(0, 1000),
)
def test_equals_torchvision(grid, output, frames, count, channels, seed):
    generator = torch.Generator().manual_seed(seed)
    tokens = torch.randn(frames, grid[0] * grid[1], channels, generator=generator, dtype=torch.float64)
    boxes = random_boxes(frames, count, generator)
    valid = torch.ones(frames, count, dtype=torch.bool)
    values, winner = roi_align_max(tokens, boxes, valid, grid_hw=grid, output_size=output)
    assert winner.dtype == torch.int16
    assert values.shape == winner.shape == (frames, count, channels)
    bins = all_bins(tokens, boxes, grid, output or grid)
    torch.testing.assert_close(values, bins.amax(dim=-1), atol=1e-10, rtol=1e-10)
    # Border clamping makes equal bins, which rounding may order either way.
    won = bins.gather(-1, winner.long()[..., None]).squeeze(-1)
    torch.testing.assert_close(won, values, atol=1e-10, rtol=1e-10)


def test_the_first_of_equal_bins_wins():
    tokens = torch.ones(1, 9, 2)
    boxes = torch.tensor([[[0.0, 0.0, 1.0, 1.0]]])
    values, winner = roi_align_max(tokens, boxes, torch.ones(1, 1, dtype=torch.bool), grid_hw=(3, 3))
    assert values.tolist() == [[[1.0, 1.0]]]
    assert winner.tolist() == [[[0, 0]]]


@pytest.mark.parametrize(
    "box",
    [
        (0.5, 0.2, 0.5, 0.8),
        (0.2, 0.8, 0.7, 0.8),
        (0.6, 0.2, 0.4, 0.8),
        (float("nan"), 0.0, 1.0, 1.0),
        (0.0, 0.0, float("inf"), 1.0),
    ],
)
def test_a_box_without_extent_or_number_is_zero(box):
    tokens = torch.randn(1, 16, 3, requires_grad=True)
    boxes = torch.tensor([[box, (0.1, 0.1, 0.9, 0.9)]])
    values, winner = roi_align_max(tokens, boxes, torch.ones(1, 2, dtype=torch.bool), grid_hw=(4, 4))
    assert torch.equal(values[0, 0], torch.zeros(3))
    assert winner[0, 0].tolist() == [-1, -1, -1]
    assert (winner[0, 1] >= 0).all()
    values[0, 0].sum().backward(retain_graph=True)
    assert torch.equal(tokens.grad, torch.zeros_like(tokens))
    values.sum().backward()
    assert torch.isfinite(tokens.grad).all()
    assert tokens.grad.abs().sum() > 0


def test_tokens_may_have_any_strides():
    """Patches behind a [CLS], and a map with channels first, without a copy made by the caller."""
    torch.manual_seed(0)
    boxes, valid = torch.tensor([[[0.1, 0.2, 0.9, 0.7]]]), torch.ones(1, 1, dtype=torch.bool)
    whole, channels_first = torch.randn(1, 17, 3), torch.randn(1, 3, 16)
    for tokens in (whole[:, 1:], channels_first.transpose(1, 2)):
        ours, _ = roi_align_max(tokens, boxes, valid, grid_hw=(4, 4))
        expected, _ = roi_align_max(tokens.contiguous(), boxes, valid, grid_hw=(4, 4))
        assert torch.equal(ours, expected)


def test_a_box_that_is_not_valid_is_zero():
    tokens, boxes = torch.randn(1, 16, 3), torch.tensor([[[0.1, 0.1, 0.9, 0.9]]])
    values, winner = roi_align_max(tokens, boxes, torch.zeros(1, 1, dtype=torch.bool), grid_hw=(4, 4))
    assert torch.equal(values, torch.zeros(1, 1, 3))
    assert winner.tolist() == [[[-1, -1, -1]]]


@pytest.mark.parametrize("output", [None, (2, 3)])
def test_gradient(output):
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randn(2, 12, 3, generator=generator, dtype=torch.float64, requires_grad=True)
    boxes, valid = random_boxes(2, 3, generator), torch.tensor([[True, True, False], [True, True, True]])

    def values(tokens):
        return roi_align_max(tokens, boxes, valid, grid_hw=(3, 4), output_size=output)[0]

    assert torch.autograd.gradcheck(values, tokens)
    expected = all_bins(tokens, boxes, (3, 4), output or (3, 4)).max(dim=-1).values
    weight = torch.randn(2, 3, 3, generator=generator, dtype=torch.float64) * valid[..., None]
    (ours,) = torch.autograd.grad((values(tokens) * weight).sum(), tokens)
    (theirs,) = torch.autograd.grad((expected * weight).sum(), tokens)
    torch.testing.assert_close(ours, theirs)


def test_half_precision_is_near():
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randn(2, 196, 16, generator=generator)
    boxes, valid = random_boxes(2, 10, generator).float(), torch.ones(2, 10, dtype=torch.bool)
    exact, _ = roi_align_max(tokens, boxes, valid, grid_hw=(14, 14))
    half, _ = roi_align_max(tokens.half(), boxes, valid, grid_hw=(14, 14))
    assert half.dtype == torch.float16
    torch.testing.assert_close(half.float(), exact, atol=5e-3, rtol=5e-3)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"tokens": torch.zeros(2, 16)}, r"tokens must be \(F, P, C\) floating point, got \(2, 16\)"),
        ({"tokens": torch.zeros(2, 16, 3).int()}, "tokens must be .*torch.int32"),
        ({"grid_hw": (3, 5)}, r"grid_hw \(3, 5\) has 15 patches, tokens has 16"),
        ({"boxes": torch.zeros(1, 3, 4)}, r"boxes must be \(2, K, 4\)"),
        ({"valid": torch.zeros(2, 3)}, r"valid must be \(2, 3\) bool"),
        ({"output_size": (0, 2)}, r"output_size is \(0, 2\)"),
    ],
)
def test_a_wrong_argument_is_named(change, message):
    arguments = {
        "tokens": torch.zeros(2, 16, 3),
        "boxes": torch.zeros(2, 3, 4),
        "valid": torch.zeros(2, 3, dtype=torch.bool),
        "grid_hw": (4, 4),
    }
    with pytest.raises(ValueError, match=message):
        roi_align_max(**{**arguments, **change})
