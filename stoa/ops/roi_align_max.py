"""RoIAlign and the maximum over its bins, straight from a ViT's patch tokens.

Shapes: F frames, P = h * w patches, K boxes per frame, C channels, O = oh * ow bins.
"""

import math

import torch
from torch import Tensor


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
    Differentiable in `tokens`; the gradient reaches the winning bins alone.

    Args:
        tokens: (F, P, C) floating point, patches in row-major order.
        boxes: (F, K, 4) x1, y1, x2, y2 in [0, 1] of the frame.
        valid: (F, K) bool.
        grid_hw: rows and columns of patches, P = h * w.
        output_size: bins along y and x; default the grid.

    Returns:
        values: (F, K, C) in the dtype of `tokens`.
        winner: (F, K, C) int16, the bin each value comes from, -1 where not valid.

    Raises:
        ValueError: an argument has the wrong shape or dtype.

    Source: RoIAlign is of He et al., "Mask R-CNN", 2017; the maximum over its bins of STOA-VLP, 2023.
    """
    output_size = output_size or grid_hw
    _check(tokens, boxes, valid, grid_hw, output_size)
    return reference(tokens, boxes, valid, grid_hw, output_size)


def reference(
    tokens: Tensor, boxes: Tensor, valid: Tensor, grid_hw: tuple[int, int], output_size: tuple[int, int]
) -> tuple[Tensor, Tensor]:
    """Bilinear interpolation is separable: two batched products with the weights of each axis."""
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
    if tokens.dim() != 3 or not tokens.is_floating_point():
        raise ValueError(f"tokens must be (F, P, C) floating point, got {tuple(tokens.shape)} {tokens.dtype}")
    if tokens.shape[1] != grid_hw[0] * grid_hw[1]:
        raise ValueError(f"grid_hw {grid_hw} has {grid_hw[0] * grid_hw[1]} patches, tokens has {tokens.shape[1]}")
    if boxes.dim() != 3 or boxes.shape[0] != tokens.shape[0] or boxes.shape[2] != 4 or not boxes.is_floating_point():
        raise ValueError(
            f"boxes must be ({tokens.shape[0]}, K, 4) floating point, got {tuple(boxes.shape)} {boxes.dtype}"
        )
    if valid.shape != boxes.shape[:2] or valid.dtype != torch.bool:
        raise ValueError(f"valid must be {tuple(boxes.shape[:2])} bool, got {tuple(valid.shape)} {valid.dtype}")
    if min(output_size) < 1 or output_size[0] * output_size[1] > torch.iinfo(torch.int16).max:
        raise ValueError(f"output_size is {output_size}, allowed are 1 to 32767 bins")
