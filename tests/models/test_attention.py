"""Attention on a CPU in half precision, which is computed in fp32."""

import pytest
import torch
from torch.nn import functional as F

from stoa.models.layers import attention, causal, masked

B, H, S, D = 2, 3, 17, 8


def qkv(dtype: torch.dtype) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(B, H, S, D, generator=generator).to(dtype).requires_grad_() for _ in range(3)]


def out_and_gradients(attend, arguments, **how):
    out = attend(*arguments, **how)
    return out, torch.autograd.grad(out.float().square().sum(), arguments)


@pytest.mark.parametrize("mask", ["none", "bool", "bias"])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_is_that_of_the_same_arguments_in_fp32(dtype, mask):
    seen = torch.rand(B, 1, S, S, generator=torch.Generator().manual_seed(1)) < 0.5
    seen |= torch.eye(S, dtype=torch.bool)
    bias = torch.zeros(B, 1, S, S).masked_fill(~seen, -torch.inf)
    given = {"none": None, "bool": seen, "bias": bias.to(dtype)}[mask]
    exact = {"none": None, "bool": seen, "bias": bias}[mask]
    arguments = qkv(dtype)
    wide = [x.detach().float().requires_grad_() for x in arguments]
    out, gradients = out_and_gradients(attention, arguments, attn_mask=given)
    expected, expected_gradients = out_and_gradients(F.scaled_dot_product_attention, wide, attn_mask=exact)
    assert out.dtype == dtype
    torch.testing.assert_close(out, expected.to(dtype), rtol=0, atol=0)
    for gradient, wanted in zip(gradients, expected_gradients, strict=True):
        assert gradient.dtype == dtype
        # The gradient that comes in is that of the rounded output.
        torch.testing.assert_close(gradient.float(), wanted, rtol=2e-2, atol=2e-2)


@pytest.mark.parametrize("attend", [causal, masked(torch.ones(S, S, dtype=torch.bool).tril())])
def test_is_in_fp32_under_autocast_too(attend):
    arguments = qkv(torch.bfloat16)
    expected = F.scaled_dot_product_attention(*[x.float() for x in arguments], is_causal=True)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        out = attend(*arguments)
    assert out.dtype == torch.bfloat16
    torch.testing.assert_close(out, expected.bfloat16())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_wider_arguments_are_left_as_they_are(dtype):
    arguments = qkv(dtype)
    torch.testing.assert_close(attention(*arguments), F.scaled_dot_product_attention(*arguments), rtol=0, atol=0)
