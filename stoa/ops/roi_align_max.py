"""RoIAlign and the maximum over its bins, straight from a ViT's patch tokens.

Shapes: F frames, P = h * w patches, K boxes per frame, C channels, O = oh * ow bins.
"""

import math
from typing import Any

import torch
from torch import Tensor

from stoa.ops._extension import compiled_devices, forbid_second_derivative

MAX_BINS = torch.iinfo(torch.int16).max
_NAME = "stoa::roi_align_max"
_DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
_COMPILED = compiled_devices(_NAME)


def roi_align_max(
    tokens: Tensor,
    boxes: Tensor,
    valid: Tensor,
    *,
    grid_hw: tuple[int, int],
    output_size: tuple[int, int] | None = None,
) -> tuple[Tensor, Tensor]:
    """The largest bin of every box and channel.

    Equals `torchvision.ops.roi_align(map, boxes x grid, output_size, 1.0, -1, aligned=True).flatten(-2).max(-1)`,
    and zero where a box is not valid; of equal bins the first wins. A box with a NaN, or without extent, is not valid.
    Differentiable in `tokens`; the gradient reaches the winning bins alone, always in the same order of summation.
    Compiled, half precision is computed in float32, so under autocast `tokens` stay as they are.

    Args:
        tokens: (F, P, C) float16, bfloat16, float32 or float64, patches in row-major order.
        boxes: (F, K, 4) x1, y1, x2, y2 in [0, 1] of the frame.
        valid: (F, K) bool.
        grid_hw: rows and columns of patches, P = h * w.
        output_size: bins along y and x, up to 32767 in all; default the grid.

    Returns:
        values: (F, K, C) in the dtype of `tokens`.
        winner: (F, K, C) int16, the bin each value comes from, -1 where not valid.

    Raises:
        ValueError: an argument has the wrong shape or dtype.

    Source: RoIAlign is of He et al., "Mask R-CNN", 2017; the maximum over its bins of STOA-VLP, 2023.
    """
    output_size = output_size or grid_hw
    _check(tokens, boxes, valid, grid_hw, output_size)
    if tokens.device.type not in _COMPILED:
        return reference(tokens, boxes, valid, grid_hw, output_size)
    boxes = boxes.detach().to(torch.float64 if tokens.dtype == torch.float64 else torch.float32)
    values, winner = torch.ops.stoa.roi_align_max(tokens, boxes, valid, grid_hw, output_size)
    return values, winner


def reference(
    tokens: Tensor, boxes: Tensor, valid: Tensor, grid_hw: tuple[int, int], output_size: tuple[int, int]
) -> tuple[Tensor, Tensor]:
    """`roi_align_max` in PyTorch: bilinear interpolation is separable, a batched product along each axis."""
    (h, w), (F, K), C = grid_hw, valid.shape, tokens.shape[2]
    x1, y1, x2, y2 = boxes.unbind(-1)
    valid = valid & boxes.isfinite().all(dim=-1) & (x2 > x1) & (y2 > y1)
    x1, y1 = (x.where(valid, 0) for x in (x1, y1))
    x2, y2 = (x.where(valid, 1) for x in (x2, y2))
    rows_weight = _axis_weights(y1, y2, h, output_size[0]).to(tokens.dtype)
    columns_weight = _axis_weights(x1, x2, w, output_size[1]).to(tokens.dtype)
    rows = rows_weight.flatten(1, 2) @ tokens.reshape(F, h, w * C)
    bins = columns_weight[:, :, None] @ rows.view(F, K, output_size[0], w, C)
    values, winner = bins.flatten(2, 3).max(dim=2)
    valid = valid[..., None]
    return values.where(valid, 0), winner.to(torch.int16).where(valid, -1)


def _axis_weights(low: Tensor, high: Tensor, size: int, bins: int) -> Tensor:
    """Weight of every grid line in every bin, (F, K, bins, size): the mean over the bin's sampling points."""
    start, step = low * size - 0.5, (high - low) * size / bins
    points = math.ceil(size / bins)
    used = step.ceil().clamp(1, points)[..., None, None]
    index = torch.arange(points, device=low.device)
    position = (torch.arange(bins, device=low.device)[:, None] + (index + 0.5) / used) * step[..., None, None]
    position = position + start[..., None, None]
    inside = (position >= -1) & (position <= size) & (index < used)
    lines = torch.arange(size, device=low.device)
    weight = (1 - (position.clamp(0, size - 1)[..., None] - lines).abs()).clamp(min=0)
    return (weight * (inside / used)[..., None]).sum(dim=-2)


def _check(
    tokens: Tensor, boxes: Tensor, valid: Tensor, grid_hw: tuple[int, int], output_size: tuple[int, int]
) -> None:
    if tokens.dim() != 3 or tokens.dtype not in _DTYPES:
        raise ValueError(
            f"tokens must be (F, P, C) float16, bfloat16, float32 or float64, got {tuple(tokens.shape)} {tokens.dtype}"
        )
    for name, size in (("grid_hw", grid_hw), ("output_size", output_size)):
        if len(size) != 2 or any(isinstance(length, float) or length < 1 for length in size):
            raise ValueError(f"{name} must be two whole numbers, 1 or more, got {tuple(size)}")
    if tokens.shape[1] != grid_hw[0] * grid_hw[1]:
        raise ValueError(f"grid_hw {grid_hw} has {grid_hw[0] * grid_hw[1]} patches, tokens has {tokens.shape[1]}")
    if boxes.dim() != 3 or boxes.shape[0] != tokens.shape[0] or boxes.shape[2] != 4 or not boxes.is_floating_point():
        raise ValueError(
            f"boxes must be ({tokens.shape[0]}, K, 4) floating point, got {tuple(boxes.shape)} {boxes.dtype}"
        )
    if valid.shape != boxes.shape[:2] or valid.dtype != torch.bool:
        raise ValueError(f"valid must be {tuple(boxes.shape[:2])} bool, got {tuple(valid.shape)} {valid.dtype}")
    if output_size[0] * output_size[1] > MAX_BINS:
        raise ValueError(f"output_size is {output_size}, allowed are 1 to {MAX_BINS} bins")
    for name, tensor in (("boxes", boxes), ("valid", valid)):
        if tensor.device != tokens.device:
            raise ValueError(f"{name} is on {tensor.device}, tokens on {tokens.device}: move {name} to tokens.device")


def _fake(tokens: Tensor, boxes: Tensor, valid: Tensor, grid_hw: Any, output_size: Any) -> tuple[Tensor, Tensor]:
    shape = (*valid.shape, tokens.shape[2])
    return tokens.new_empty(shape), tokens.new_empty(shape, dtype=torch.int16)


def _fake_backward(grad: Tensor, winner: Tensor, boxes: Tensor, grid_hw: Any, output_size: Any) -> Tensor:
    return grad.new_empty(grad.shape[0], grid_hw[0] * grid_hw[1], grad.shape[2])


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    _, boxes, _, ctx.grid_hw, ctx.output_size = inputs
    ctx.save_for_backward(output[1], boxes)


def _backward(ctx: Any, grad: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
    winner, boxes = ctx.saved_tensors
    grad_tokens = torch.ops.stoa.roi_align_max_backward(grad, winner, boxes, ctx.grid_hw, ctx.output_size)
    return grad_tokens, None, None, None, None


if _COMPILED:
    torch.library.register_fake(_NAME, _fake)
    torch.library.register_fake(f"{_NAME}_backward", _fake_backward)
    torch.library.register_autograd(_NAME, _backward, setup_context=_setup_context)
    forbid_second_derivative(f"{_NAME}_backward")
