"""QuickGELU, the activation of OpenAI's CLIP, in one pass over memory."""

from typing import Any

import torch
from torch import Tensor

from stoa.ops._extension import compiled_devices, forbid_second_derivative

_NAME = "stoa::quick_gelu"
_SLOPE = 1.702
_DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
_COMPILED = compiled_devices(_NAME)


def quick_gelu(x: Tensor) -> Tensor:
    """``x * sigmoid(1.702 x)``, and its gradient, which keeps ``x`` alone for the backward pass.

    Composed of PyTorch's operators it is three passes over memory, and keeps two tensors. Compiled, half precision
    is computed in float32.

    Args:
        x: any shape, float16, bfloat16, float32 or float64.

    Returns:
        the same shape and dtype.

    Raises:
        ValueError: ``x`` has another dtype.

    Source: Hendrycks and Gimpel, "Gaussian Error Linear Units (GELUs)", 2016; Radford et al. (CLIP), 2021.
    """
    if x.dtype not in _DTYPES:
        raise ValueError(f"x must be float16, bfloat16, float32 or float64, got {x.dtype}")
    if x.device.type not in _COMPILED:
        return reference(x)
    return torch.ops.stoa.quick_gelu(x)


def reference(x: Tensor) -> Tensor:
    """`quick_gelu` in PyTorch."""
    return x * torch.sigmoid(_SLOPE * x)


def _fake(x: Tensor) -> Tensor:
    return torch.empty_like(x, memory_format=torch.contiguous_format)


def _fake_backward(grad: Tensor, x: Tensor) -> Tensor:
    return torch.empty_like(x, memory_format=torch.contiguous_format)


def _setup_context(ctx: Any, inputs: tuple[Tensor], output: Tensor) -> None:
    ctx.save_for_backward(*inputs)


def _backward(ctx: Any, grad: Tensor) -> Tensor:
    (x,) = ctx.saved_tensors
    return torch.ops.stoa.quick_gelu_backward(grad, x)


if _COMPILED:
    torch.library.register_fake(_NAME, _fake)
    torch.library.register_fake(f"{_NAME}_backward", _fake_backward)
    torch.library.register_autograd(_NAME, _backward, setup_context=_setup_context)
    forbid_second_derivative(f"{_NAME}_backward")
