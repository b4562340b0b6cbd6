"""QuickGELU against its formula in float64, everywhere it can be reached."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from implementations import implementations, operators

from stoa.ops import quick_gelu
from stoa.ops._extension import compiled_devices
from stoa.ops.quick_gelu import reference

everywhere = implementations("activate", quick_gelu, reference)


def expected(x, weight):
    """Values and gradient in float64, by the formula and its derivative."""
    x = x.double()
    s = 1 / (1 + torch.exp(-1.702 * x))
    return x * s, weight.double() * (s + 1.702 * x * s * (1 - s))


def found(activate, x, weight):
    x = x.clone().requires_grad_()
    out = activate(x)
    out.backward(weight)
    return out.detach(), x.grad


@everywhere
@given(size=st.one_of(st.integers(0, 70), st.integers(1015, 1035)), seed=st.integers(0, 100))
def test_any_size(activate, size, seed):
    generator = torch.Generator().manual_seed(seed)
    x, weight = (4 * torch.randn(size, generator=generator) for _ in range(2))
    for ours, theirs in zip(found(activate, x, weight), expected(x, weight), strict=True):
        torch.testing.assert_close(ours.double(), theirs, rtol=1e-5, atol=1e-6)


@everywhere
def test_the_whole_range(activate):
    x = torch.cat([torch.linspace(-60, 60, 100_003), torch.logspace(-30, 30, 61), -torch.logspace(-30, 1.7, 61)])
    for ours, theirs in zip(found(activate, x, torch.ones_like(x)), expected(x, torch.ones_like(x)), strict=True):
        torch.testing.assert_close(ours.double(), theirs, rtol=1e-5, atol=1e-6)


@everywhere
def test_what_is_no_number_stays_none(activate):
    x = torch.tensor([torch.nan, torch.inf, -3e38, 0.0, 1.0] * 5)
    out, grad = found(activate, x, torch.ones(25))
    assert out[0::5].isnan().all() and grad[0::5].isnan().all()
    assert (out[1::5] == torch.inf).all()
    assert (out[2::5].abs() < 1).all() and (out[3::5] == 0).all()
    torch.testing.assert_close(grad[3::5], torch.full((5,), 0.5))


@everywhere
def test_gradient(activate):
    x = torch.randn(3, 5, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(activate, (x,))


@everywhere
def test_shapes_and_strides(activate):
    for x in (torch.randn(()), torch.randn(2, 0, 3), torch.randn(6, 7).t(), torch.randn(4, 9)[:, 1::2]):
        torch.testing.assert_close(activate(x), reference(x))
        weight = torch.randn(x.t().shape).t() if x.dim() == 2 else torch.randn(x.shape)
        for ours, theirs in zip(found(activate, x, weight), expected(x, weight), strict=True):
            torch.testing.assert_close(ours.double(), theirs, rtol=1e-5, atol=1e-6)


@operators("activate", quick_gelu)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_errs_no_more_than_its_composition(activate, dtype):
    generator = torch.Generator().manual_seed(0)
    x, weight = ((3 * torch.randn(4099, generator=generator)).to(dtype) for _ in range(2))
    exact = expected(x, weight)
    for ours, theirs, right in zip(found(activate, x, weight), found(reference, x, weight), exact, strict=True):
        assert ours.dtype == dtype
        assert (ours.double() - right).norm() <= (theirs.double() - right).norm()


@operators("activate", quick_gelu)
def test_many_elements_are_shared_among_threads(activate):
    x, weight = torch.randn(3, 70_001), torch.randn(3, 70_001)
    for ours, theirs in zip(found(activate, x, weight), expected(x, weight), strict=True):
        torch.testing.assert_close(ours.double(), theirs, rtol=1e-5, atol=1e-6)


@operators("activate", quick_gelu)
def test_one_tensor_is_kept(activate):
    """The formula keeps its argument and the sigmoid."""
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda x: kept.append(x) or x, lambda x: x):
        quick_gelu(torch.randn(8, requires_grad=True))
    assert len(kept) == 1


# Raised inside of opcheck, for the copy that it makes of an input.
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")
@pytest.mark.skipif("cpu" not in compiled_devices("stoa::quick_gelu"), reason="it is not built")
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_opcheck(dtype):
    for x in (torch.randn(3, 4), torch.randn(5, 4).t()):
        torch.library.opcheck(torch.ops.stoa.quick_gelu, (x.to(dtype).detach().requires_grad_(),))


def test_integers_are_refused():
    with pytest.raises(ValueError, match="x must be float16, bfloat16, float32 or float64, got torch.int64"):
        quick_gelu(torch.arange(3))


def test_second_derivatives_are_refused():
    x = torch.randn(3, requires_grad=True)
    (grad,) = torch.autograd.grad(quick_gelu(x).sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match="second derivatives are not supported"):
        grad.sum().backward()
