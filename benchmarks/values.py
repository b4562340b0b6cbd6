"""What the benchmarks time, against float32: nothing that is wrong is timed.

A rounding is the distance from 1 to the next number of the dtype, 2^-10 in fp16 and 2^-7 in bf16. Errors are of the
number that is furthest off, relative to the largest there is.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable
from typing import Any

import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from stoa.ops import batched_assignment, quick_gelu, roi_align_max
from stoa.ops.roi_align_max import _axis_weights

#: Roundings by which a single operator may err: it computes in float32 and rounds its result, and in the backward pass
#: reads its own rounded output.
OF_AN_OPERATOR = 2.0
#: Of a graph's attention, which is made of products in the dtype itself: roundings in the mean over all numbers.
OF_THE_GRAPH = 4.0
#: Of several layers: how many times the error of the alternative in the same dtype.
OF_LAYERS = 2.0
#: Of the outputs and losses of a model, cast, relative to their size.
OF_A_MODULE = 0.03
#: In float32 itself, of sums in another order.
_IN_FLOAT32 = 1e-4
_FRAMES_AT_ONCE = 96  # all bins of so many take half a GiB


class WrongValues(RuntimeError):
    """What was to be timed gives other values than its reference."""


def in_float32(case: Any) -> Any:
    """The same case with its tensors and modules, rounded as they are, in float32."""

    def cast(value: Any) -> Any:
        if isinstance(value, nn.Module):
            return copy.deepcopy(value).float()
        if isinstance(value, list):
            return [cast(x) for x in value]
        if isinstance(value, Tensor) and value.is_floating_point():
            return value.detach().float().requires_grad_(value.requires_grad)
        return value

    exact = copy.copy(case)
    vars(exact).update({name: cast(value) for name, value in vars(case).items()})
    return exact


def largest_error(found: Tensor, exact: Tensor) -> float:
    """Infinite where either is not finite."""
    error = (found.detach().float() - exact.detach()).abs().amax() / exact.detach().abs().amax().clamp(min=1e-30)
    return error.item() if error.isfinite() else float("inf")


def mean_error(found: Tensor, exact: Tensor) -> float:
    """Norm of the error relative to that of the numbers; infinite where either is not finite."""
    error = (found.detach().float() - exact.detach()).norm() / exact.detach().norm().clamp(min=1e-30)
    return error.item() if error.isfinite() else float("inf")


def require(what: str, dtype: torch.dtype, error: float, bound: float) -> float:
    """Say an error, and raise where it is beyond its bound."""
    text = f"{what}, {str(dtype).removeprefix('torch.')}: off by {error:.1e} at most, allowed {bound:.1e}"
    if not error <= bound:
        raise WrongValues(text)
    print(text, flush=True)
    return error


def passes(case: Any, name: str) -> list[Tensor]:
    """Outputs, and the gradients of a step."""
    with torch.no_grad():
        out = getattr(case, name)()
    return [out, *case.step(name)()]


def exact_passes(case: Any, name: str) -> list[Tensor]:
    """The same in float32, attention in products: fused ones may round to TF32."""
    with sdpa_kernel(SDPBackend.MATH):
        return passes(in_float32(case), name)


def pairs(case: Any, ours: str, theirs: str) -> Iterable[tuple[Tensor, Tensor]]:
    """Outputs and gradients of ours, and of the alternative in float32."""
    return zip(passes(case, ours), exact_passes(case, theirs), strict=True)


def check_operator(what: str, case: Any, dtype: torch.dtype, ours: str, theirs: str) -> None:
    """An operator of one rounding, against the alternative in float32."""
    error = max(largest_error(*pair) for pair in pairs(case, ours, theirs))
    require(what, dtype, error, OF_AN_OPERATOR * torch.finfo(dtype).eps + _IN_FLOAT32)


def check_graph(what: str, case: Any, dtype: torch.dtype, ours: str, theirs: str) -> None:
    """As :func:`check_operator`; an edge at the threshold may fall to either side, so errors are means."""
    error = max(mean_error(*pair) for pair in pairs(case, ours, theirs))
    require(what, dtype, error, OF_THE_GRAPH * torch.finfo(dtype).eps + _IN_FLOAT32)


def check_layers(what: str, case: Any, dtype: torch.dtype, ours: str, theirs: str) -> None:
    """Layers err no more than twice as much as the alternative does in the same dtype."""
    errors = []
    for found, other, exact in zip(passes(case, ours), passes(case, theirs), exact_passes(case, theirs), strict=True):
        bound = OF_LAYERS * mean_error(other, exact) + torch.finfo(dtype).eps
        errors.append((mean_error(found, exact) / bound, mean_error(found, exact), bound))
    _, error, bound = max(errors)
    require(what, dtype, error, bound)


def check_modules(
    what: str, module: nn.Module, dtypes: Iterable[torch.dtype], call: Callable[[nn.Module, Tensor], Tensor], x: Tensor
) -> None:
    """A whole module, cast, gives what it gives in float32: within :data:`OF_A_MODULE` of its size."""
    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH):
        exact = call(module, x)
    for dtype in dtypes:
        with torch.no_grad():
            found = call(copy.deepcopy(module).to(dtype), x.to(dtype))
        require(what, dtype, mean_error(found, exact), OF_A_MODULE)


def check_roi(what: str, case: Any, dtype: torch.dtype, grid: tuple[int, int]) -> None:
    """``roi_align_max`` as it comes and behind a [CLS], against all bins in float32.

    Border clamping makes equal bins, of which rounding may choose either: the gradient is that of the bins that won,
    and these have to be as large as the largest.
    """
    behind_cls = torch.cat([case.tokens.new_zeros(len(case.tokens), 1, case.tokens.shape[2]), case.tokens], dim=1)
    leaf = behind_cls.detach().requires_grad_()
    for name, tokens, source in (("", case.tokens, case.tokens), (" behind a [CLS]", leaf[:, 1:], leaf)):
        values, winner = roi_align_max(tokens, case.boxes, case.valid, grid_hw=grid)
        (grad,) = torch.autograd.grad(values, source, case.weight)
        error = 0.0
        for first in range(0, len(values), _FRAMES_AT_ONCE):
            some = slice(first, first + _FRAMES_AT_ONCE)
            exact = tokens[some].detach().float().requires_grad_()
            bins = _all_bins(exact, case.boxes[some], grid)
            kept = case.valid[some, :, None]
            won = bins.gather(2, winner[some].long().clamp(min=0)[:, :, None]).squeeze(2).where(kept, 0)
            (exact_grad,) = torch.autograd.grad(won, exact, case.weight[some].float())
            largest = bins.detach().amax(dim=2).where(kept, 0)
            if not torch.equal(winner[some] >= 0, kept.expand_as(winner[some])):
                raise WrongValues(f"{what}{name}: a winner where there is no box, or none where there is one")
            below = largest_error(won, largest)
            if not below <= _IN_FLOAT32:
                raise WrongValues(f"{what}{name}: a winning bin is {below:.1e} below the largest")
            error = max(error, largest_error(values[some], largest))
            error = max(error, largest_error(grad[some, -exact.shape[1] :], exact_grad))
        require(what + name, dtype, error, OF_AN_OPERATOR * torch.finfo(dtype).eps + _IN_FLOAT32)


def _all_bins(tokens: Tensor, boxes: Tensor, grid: tuple[int, int]) -> Tensor:
    """(F, K, bins, C), differentiable in the tokens."""
    rows = _axis_weights(boxes[..., 1], boxes[..., 3], grid[0], grid[0])
    columns = _axis_weights(boxes[..., 0], boxes[..., 2], grid[1], grid[1])
    return torch.einsum("fkyh,fkxw,fhwc->fkyxc", rows, columns, tokens.unflatten(1, grid)).flatten(2, 3)


def check_assignment(what: str, cost: Tensor) -> None:
    """The columns that SciPy gives each row, for the costs as they are rounded."""
    found = batched_assignment(cost)[0].cpu()
    for problem, match in zip(cost.cpu().double().numpy(), found, strict=True):
        rows, columns = linear_sum_assignment(problem)
        right = torch.full_like(match, -1)
        right[torch.as_tensor(rows)] = torch.as_tensor(columns)
        if not torch.equal(match, right):
            raise WrongValues(f"{what}, {cost.dtype}: {match.tolist()}, SciPy has {right.tolist()}")
    print(f"{what}, {str(cost.dtype).removeprefix('torch.')}: as SciPy's in all {len(cost)} problems", flush=True)


def check_quick_gelu(what: str, x: Tensor) -> None:
    """Values and gradient by the formula and its derivative, in float32."""
    leaf, exact = x.detach().requires_grad_(), x.detach().float()
    out = quick_gelu(leaf)
    (grad,) = torch.autograd.grad(out, leaf, torch.ones_like(out))
    gate = torch.sigmoid(1.702 * exact)
    error = max(largest_error(out, exact * gate), largest_error(grad, gate + 1.702 * exact * gate * (1 - gate)))
    require(what, x.dtype, error, OF_AN_OPERATOR * torch.finfo(x.dtype).eps + _IN_FLOAT32)
