"""roi_align_max against torchvision's RoIAlign and a maximum."""

import pytest
import torch
from implementations import implementations, on_cuda, operators
from torch import Tensor
from torchvision.ops import roi_align

from stoa.ops import roi_align_max
from stoa.ops.roi_align_max import _COMPILED, reference

compiled = pytest.mark.skipif("cpu" not in _COMPILED, reason="the extension is not built")


def pool_by_reference(tokens, boxes, valid, *, grid_hw, output_size=None):
    return reference(tokens, boxes, valid, grid_hw, output_size or grid_hw)


everywhere = implementations("pool", roi_align_max, pool_by_reference)


def random_boxes(frames: int, boxes: int, generator: torch.Generator) -> Tensor:
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


def assert_equals_torchvision(pool, grid, output, frames, count, channels, seed):
    generator = torch.Generator().manual_seed(seed)
    tokens = torch.randn(frames, grid[0] * grid[1], channels, generator=generator, dtype=torch.float64)
    tokens.requires_grad_()
    boxes = random_boxes(frames, count, generator)
    valid = torch.rand(frames, count, generator=generator) < 0.8
    values, winner = pool(tokens, boxes, valid, grid_hw=grid, output_size=output)
    assert winner.dtype == torch.int16
    assert values.shape == winner.shape == (frames, count, channels)
    bins = all_bins(tokens, boxes, grid, output or grid)
    expected = bins.amax(dim=-1).where(valid[..., None], 0)
    torch.testing.assert_close(values, expected, atol=1e-10, rtol=1e-10)
    assert torch.equal(winner >= 0, valid[..., None].expand_as(winner))
    # Border clamping makes equal bins, which rounding may order either way.
    won = bins.gather(-1, winner.long().clamp(min=0)[..., None]).squeeze(-1).where(valid[..., None], 0)
    torch.testing.assert_close(won, values, atol=1e-10, rtol=1e-10)
    weight = torch.randn(values.shape, generator=generator, dtype=torch.float64)
    (ours,) = torch.autograd.grad((values * weight).sum(), tokens)
    (theirs,) = torch.autograd.grad((won * weight).sum(), tokens)
    torch.testing.assert_close(ours, theirs, atol=1e-10, rtol=1e-10)


@everywhere
@pytest.mark.parametrize(
    ("grid", "output", "channels"),
    [((14, 14), None, 96), ((14, 14), (7, 7), 33), ((14, 14), (3, 3), 64), ((7, 11), (1, 1), 7), ((37, 37), None, 17)],
)
def test_sizes_of_models(pool, grid, output, channels):
    assert_equals_torchvision(pool, grid, output, 2, 10, channels, seed=1)


@everywhere
def test_the_first_of_equal_bins_wins(pool):
    tokens = torch.ones(1, 9, 2)
    boxes = torch.tensor([[[0.0, 0.0, 1.0, 1.0]]])
    values, winner = pool(tokens, boxes, torch.ones(1, 1, dtype=torch.bool), grid_hw=(3, 3))
    assert values.tolist() == [[[1.0, 1.0]]]
    assert winner.tolist() == [[[0, 0]]]


@everywhere
def test_the_first_number_that_is_none_wins(pool):
    """As in torch.max; a model that has diverged shows it."""
    tokens = torch.randn(1, 9, 1)
    tokens[0, 4:] = torch.nan
    values, winner = pool(tokens, torch.tensor([[[0.0, 0.0, 1.0, 1.0]]]), torch.ones(1, 1).bool(), grid_hw=(3, 3))
    assert values.isnan().all()
    assert 0 <= winner.item() <= 4


@everywhere
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
def test_a_box_without_extent_or_number_is_zero(pool, box):
    tokens = torch.randn(1, 16, 3, requires_grad=True)
    boxes = torch.tensor([[box, (0.1, 0.1, 0.9, 0.9)]])
    values, winner = pool(tokens, boxes, torch.ones(1, 2, dtype=torch.bool), grid_hw=(4, 4))
    assert torch.equal(values[0, 0], torch.zeros(3))
    assert winner[0, 0].tolist() == [-1, -1, -1]
    assert (winner[0, 1] >= 0).all()
    values[0, 0].sum().backward(retain_graph=True)
    assert torch.equal(tokens.grad, torch.zeros_like(tokens))
    values.sum().backward()
    assert torch.isfinite(tokens.grad).all()
    assert tokens.grad.abs().sum() > 0


@operators("pool", roi_align_max)
@pytest.mark.parametrize("box", [(-0.4, 0.1, 0.5, 0.9), (0.2, -1.0, 1.7, 3.0), (1.5, 1.5, 2.5, 2.5)])
def test_a_box_beyond_the_frame_reads_the_frame_alone(pool, box):
    tokens, boxes = torch.randn(1, 20, 3).double(), torch.tensor([[box]], dtype=torch.float64)
    values, _ = pool(tokens, boxes, torch.ones(1, 1).bool(), grid_hw=(4, 5), output_size=(6, 6))
    expected, _ = pool_by_reference(tokens, boxes, torch.ones(1, 1).bool(), grid_hw=(4, 5), output_size=(6, 6))
    torch.testing.assert_close(values, expected)


@everywhere
def test_tokens_may_have_any_strides(pool):
    """Patches behind a [CLS], and a map with channels first, without a copy made by the caller."""
    boxes, valid = torch.tensor([[[0.1, 0.2, 0.9, 0.7]]]), torch.ones(1, 1, dtype=torch.bool)
    whole, channels_first = torch.randn(1, 17, 3), torch.randn(1, 3, 16)
    for tokens in (whole[:, 1:], channels_first.transpose(1, 2)):
        ours, _ = pool(tokens, boxes, valid, grid_hw=(4, 4))
        expected, _ = pool(tokens.contiguous(), boxes, valid, grid_hw=(4, 4))
        torch.testing.assert_close(ours, expected)


@everywhere
@pytest.mark.parametrize(("frames", "count", "channels"), [(0, 2, 3), (2, 0, 3), (2, 2, 0)])
def test_nothing_to_pool(pool, frames, count, channels):
    tokens = torch.randn(frames, 4, channels, requires_grad=True)
    boxes, valid = torch.rand(frames, count, 4), torch.ones(frames, count).bool()
    values, winner = pool(tokens, boxes, valid, grid_hw=(2, 2))
    assert values.shape == winner.shape == (frames, count, channels)
    values.sum().backward()
    assert torch.equal(tokens.grad, torch.zeros_like(tokens))


@everywhere
@pytest.mark.parametrize("output", [None, (2, 3)])
def test_gradient(pool, output):
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randn(2, 12, 3, generator=generator, dtype=torch.float64, requires_grad=True)
    boxes, valid = random_boxes(2, 3, generator), torch.tensor([[True, True, False], [True, True, True]])
    assert torch.autograd.gradcheck(lambda x: pool(x, boxes, valid, grid_hw=(3, 4), output_size=output)[0], tokens)


@operators("pool", roi_align_max)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_errs_no_more_than_twice_its_composition(pool, dtype):
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randn(2, 196, 16, generator=generator).to(dtype)
    boxes, valid = random_boxes(2, 10, generator).float(), torch.ones(2, 10, dtype=torch.bool)
    weight = torch.randn(2, 10, 16, generator=generator)

    def run(pool, tokens):
        tokens = tokens.detach().requires_grad_()
        values, _ = pool(tokens, boxes, valid, grid_hw=(14, 14))
        assert values.dtype == tokens.dtype
        (grad,) = torch.autograd.grad((values * weight.to(values.dtype)).sum(), tokens)
        return values.double(), grad.double()

    exact = run(pool_by_reference, tokens.double())
    native = run(pool_by_reference, tokens)
    for ours, theirs, truth in zip(run(pool, tokens), native, exact, strict=True):
        assert (ours - truth).abs().max() <= 2 * (theirs - truth).abs().max()


@everywhere
def test_the_gradient_is_the_same_every_time(pool):
    tokens = torch.randn(8, 196, 32, requires_grad=True)
    boxes, valid = torch.rand(8, 10, 2, 2).sort(dim=-2).values.flatten(-2), torch.ones(8, 10).bool()
    grads = [torch.autograd.grad(pool(tokens, boxes, valid, grid_hw=(14, 14))[0].sum(), tokens)[0] for _ in range(3)]
    assert torch.equal(grads[0], grads[1])
    assert torch.equal(grads[0], grads[2])


def example(device: str = "cpu"):
    tokens = torch.randn(2, 13, 5, device=device)[:, 1:]
    boxes = torch.rand(2, 3, 2, 2, device=device).sort(dim=-2).values.flatten(-2)
    return tokens, boxes, torch.tensor([[True, False, True], [True, True, True]], device=device)


devices = pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.needs_cuda)])


# Raised inside of opcheck, for the copy that it makes of an input.
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")
@compiled
@devices
def test_opcheck(device):
    tokens, boxes, valid = example(device)
    tokens.requires_grad_()
    torch.library.opcheck(torch.ops.stoa.roi_align_max.default, (tokens, boxes, valid, (3, 4), (2, 2)))
    values, winner = torch.ops.stoa.roi_align_max(tokens.detach(), boxes, valid, (3, 4), (2, 2))
    torch.library.opcheck(
        torch.ops.stoa.roi_align_max_backward.default, (torch.randn_like(values), winner, boxes, (3, 4), (2, 2))
    )


@compiled
@devices
@pytest.mark.parametrize("backend", ["eager", "aot_eager"])
def test_compiles_without_a_graph_break(device, backend):
    tokens, boxes, valid = example(device)

    def pooled(tokens):
        return roi_align_max(tokens * 2, boxes, valid, grid_hw=(3, 4))[0] + 1

    eager, whole = tokens.clone().requires_grad_(), tokens.clone().requires_grad_()
    expected, actual = pooled(eager), torch.compile(pooled, backend=backend, fullgraph=True)(whole)
    torch.testing.assert_close(actual, expected)
    torch.testing.assert_close(torch.autograd.grad(actual.sum(), whole), torch.autograd.grad(expected.sum(), eager))


@compiled
def test_autocast_leaves_the_tokens_as_they_are():
    tokens, boxes, valid = example()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        values, _ = roi_align_max(tokens, boxes.half(), valid, grid_hw=(3, 4))
    assert values.dtype == torch.float32


@compiled
def test_a_second_derivative_is_refused():
    tokens, boxes, valid = example()
    tokens.requires_grad_()
    values, _ = roi_align_max(tokens, boxes, valid, grid_hw=(3, 4))
    weight = torch.ones_like(values, requires_grad=True)
    (grad,) = torch.autograd.grad(values, tokens, weight, create_graph=True)
    with pytest.raises(RuntimeError, match="second derivatives are not supported"):
        grad.sum().backward()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"tokens": torch.zeros(2, 16)}, r"tokens must be \(F, P, C\) float16, .* got \(2, 16\)"),
        ({"tokens": torch.zeros(2, 16, 3).int()}, "tokens must be .*torch.int32"),
        ({"grid_hw": (3, 5)}, r"grid_hw \(3, 5\) has 15 patches, tokens has 16"),
        ({"boxes": torch.zeros(1, 3, 4)}, r"boxes must be \(2, K, 4\)"),
        ({"boxes": torch.zeros(2, 3, 4, device="meta")}, "boxes is on meta, tokens on cpu"),
        ({"valid": torch.zeros(2, 3)}, r"valid must be \(2, 3\) bool"),
        ({"output_size": (0, 2)}, r"output_size must be two whole numbers, 1 or more, got \(0, 2\)"),
        ({"output_size": (1024, 32)}, r"output_size is \(1024, 32\), allowed are 1 to 32767 bins"),
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


RAW = {
    "tokens": torch.zeros(2, 16, 3),
    "boxes": torch.zeros(2, 3, 4),
    "valid": torch.zeros(2, 3, dtype=torch.bool),
    "grid_hw": (4, 4),
    "output_size": (2, 2),
}


@compiled
@devices
@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"tokens": torch.zeros(2, 16)}, r"tokens must be \(F, P, C\) with the 16 patches"),
        ({"grid_hw": (4, 5)}, "tokens must be .* with the 20 patches"),
        ({"grid_hw": (4, -4)}, "grid_hw is"),
        ({"grid_hw": (2**40, 2**40)}, "grid_hw is"),
        ({"boxes": torch.zeros(2, 3, 4).double()}, "boxes must be .* Float"),
        ({"boxes": torch.zeros(3, 3, 4)}, "boxes must be"),
        ({"valid": torch.zeros(2, 2, dtype=torch.bool)}, "valid must be"),
        ({"output_size": (32767, 2)}, "output_size is .* 1 to 32767 bins"),
    ],
)
def test_the_raw_operator_reads_nothing_out_of_bounds(device, change, message):
    arguments = [x.to(device) if isinstance(x, Tensor) else x for x in {**RAW, **change}.values()]
    with pytest.raises(ValueError, match=message):
        torch.ops.stoa.roi_align_max(*arguments)


@compiled
@devices
def test_the_raw_backward_reads_nothing_out_of_bounds(device):
    grad, boxes = torch.zeros(2, 3, 5, device=device), torch.rand(2, 3, 4, device=device)
    winner = torch.zeros(2, 3, 5, dtype=torch.int16, device=device)
    backward = torch.ops.stoa.roi_align_max_backward
    with pytest.raises(ValueError, match="winner must be"):
        backward(grad, winner[:, :2], boxes, (4, 4), (2, 2))
    with pytest.raises(ValueError, match="boxes has 2 boxes a frame, grad 3"):
        backward(grad, winner, boxes[:, :2], (4, 4), (2, 2))
    if device == "cpu":
        with pytest.raises(ValueError, match="winner has a bin 4 of 4"):
            backward(grad, winner + 4, boxes, (4, 4), (2, 2))


@operators("pool", roi_align_max)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_behind_cls_errs_no_more_than_rounding(pool, dtype):
    """As in training: rows of 768 channels behind that of [CLS], ten boxes."""
    generator = torch.Generator().manual_seed(0)
    whole = torch.randn(4, 197, 768, generator=generator).to(dtype).requires_grad_()
    boxes, valid = random_boxes(4, 10, generator).float(), torch.rand(4, 10, generator=generator) < 0.8
    values, winner = pool(whole[:, 1:], boxes, valid, grid_hw=(14, 14))
    weight = torch.randn(values.shape, generator=generator).to(dtype)
    (grad,) = torch.autograd.grad(values, whole, weight)

    exact = whole.detach().double().requires_grad_()
    bins = all_bins(exact[:, 1:], boxes.double(), (14, 14), (14, 14))
    won = bins.gather(-1, winner.long().clamp(min=0)[..., None]).squeeze(-1).where(valid[..., None], 0)
    (expected,) = torch.autograd.grad(won, exact, weight.double())
    rounding = {"rtol": torch.finfo(dtype).eps, "atol": 1e-4}
    torch.testing.assert_close(values.double(), bins.amax(-1).where(valid[..., None], 0), **rounding)
    torch.testing.assert_close(won, values.double(), **rounding)
    assert torch.equal(winner >= 0, valid[..., None].expand_as(winner))
    torch.testing.assert_close(grad.double(), expected, **rounding)


@pytest.mark.needs_cuda
def test_a_large_map_on_a_gpu_equals_the_cpu():
    """More patches than shared memory holds, in the forward and in the backward pass."""
    tokens = torch.randn(2, 60 * 60, 40, requires_grad=True)
    boxes, valid = torch.rand(2, 12, 2, 2).sort(dim=-2).values.flatten(-2), torch.ones(2, 12).bool()
    results = []
    for pool in (roi_align_max, on_cuda(roi_align_max)):
        values, _ = pool(tokens, boxes, valid, grid_hw=(60, 60), output_size=(14, 14))
        results.append((values, torch.autograd.grad(values.sum(), tokens)[0]))
    torch.testing.assert_close(results[0], results[1])
