"""Everything that crosses ranks, but for the barriers around files. No other file calls a collective.

Without an initialised process group each function is its one-process form. Tensors on the meta device have nothing to
send: only their sizes are those of what would arrive.

Shape legend: B clips on this rank, W ranks.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple, TypeVar, cast

import torch
import torch.distributed as dist

from stoa.files import DiskFull
from stoa.parts import part

T = TypeVar("T")


class Collective(NamedTuple):
    """What crosses ranks at once.

    Attributes:
        name: ``all_reduce``, ``all_gather`` or ``reduce_scatter``.
        bytes: of the whole: of what is reduced, or gathered from all ranks.
    """

    name: str
    bytes: float


_imagined: int | None = None
_sent: Counter[Collective] = Counter()


@contextmanager
def imagined_ranks(count: int) -> Iterator[Counter[Collective]]:
    """As the first of so many ranks, whose tensors are all on the meta device; with how often each collective would
    have been called."""
    global _imagined, _sent
    before = _imagined, _sent
    _imagined, _sent = count, Counter()
    try:
        yield _sent
    finally:
        _imagined, _sent = before


def world_size() -> int:
    if _imagined is not None:
        return _imagined
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def rank() -> int:
    if _imagined is not None:
        return 0
    return dist.get_rank() if dist.is_available() and dist.is_initialized() else 0


def from_first_rank(make: Callable[[], T]) -> T:
    """What ``make``, called on the first rank alone, returns or raises there, on all ranks.

    Raises:
        ValueError, OSError, RuntimeError: on the other ranks in the place of what ``make`` raised, with its message.
    """
    shared: list[Any] = [None, None]
    failure: Exception | None = None
    if rank() == 0:
        try:
            shared[0] = make()
        except Exception as error:
            failure = error
            kind = next(kind for kind in (ValueError, DiskFull, OSError, Exception) if isinstance(error, kind))
            shared[1] = (RuntimeError if kind is Exception else kind, str(error))
    if world_size() > 1:
        dist.broadcast_object_list(shared)
    if failure is not None:
        raise failure
    if shared[1] is not None:
        raised, message = shared[1]
        raise raised(message)
    return cast(T, shared[0])


def of_all_ranks(value: T) -> list[T]:
    """All ranks: what each has, in rank order; anything that can be pickled."""
    if world_size() == 1:
        return [value]
    values: list[Any] = [None] * world_size()
    dist.all_gather_object(values, value)
    return values


def seconds_of_all_reduce(x: torch.Tensor, times: int) -> float:
    """All ranks: of one of so many, behind one that is not counted."""
    begun = 0.0
    for number in range(times + 1):
        if number == 1:
            _all_done(x)
            begun = time.perf_counter()
        dist.all_reduce(x)
    _all_done(x)
    return (time.perf_counter() - begun) / times


def _all_done(x: torch.Tensor) -> None:
    if x.is_cuda:
        torch.cuda.synchronize(x.device)
    dist.barrier()


class Agreed(NamedTuple):
    """What at least one rank has said, or its device has seen."""

    stop: bool = False
    save: bool = False
    unsound: bool = False


class Agreement:
    """What ranks tell each other once a step, and all learn at the same one: one step later, so that a host waits for
    nothing but the step before. What a single process says it knows at once, as it does what a CPU has seen.

    Args:
        device: of this process, on which the ranks reach each other.
    """

    def __init__(self, device: torch.device) -> None:
        self._flags = torch.zeros(3, device=device)
        self._told = torch.zeros(3, pin_memory=device.type == "cuda")
        self._pending: Any = None

    def ask(self, *, stop: bool, save: bool, unsound: torch.Tensor) -> Agreed:
        """All ranks, once a step: tell, and learn what was told at the step before.

        Args:
            stop: the run is to end.
            save: it is to be saved.
            unsound: (), bool, on the device, which nobody waits for: the step was not finite.
        """
        alone, on_gpu = world_size() == 1, self._flags.is_cuda
        if alone and not on_gpu:
            return Agreed(stop, save, bool(unsound))
        found = self.finish()
        self._flags[0].fill_(stop)
        self._flags[1].fill_(save)
        self._flags[2].copy_(unsound)
        if not on_gpu:
            self._told = self._flags
            self._pending = dist.all_reduce(self._flags, dist.ReduceOp.MAX, async_op=True)
            return found
        if not alone:
            dist.all_reduce(self._flags, dist.ReduceOp.MAX)
        self._told.copy_(self._flags, non_blocking=True)
        self._pending = torch.cuda.Event()
        self._pending.record()
        return Agreed(stop, save, found.unsound) if alone else found

    def finish(self) -> Agreed:
        """All ranks: learn what was told last."""
        if self._pending is None:
            return Agreed()
        if self._flags.is_cuda:
            self._pending.synchronize()
        else:
            self._pending.wait()
        self._pending = None
        return Agreed(*(bool(flag) for flag in self._told.tolist()))


def gather_rows(x: torch.Tensor) -> torch.Tensor:
    """Concatenate (B, ...) of all ranks to (W*B, ...), in rank order.

    The backward pass sums the gradients of all ranks. With a loss that is the mean over ranks of local
    losses, and gradients averaged over ranks, every parameter gets the gradient of the global loss.
    """
    return _GatherRows.apply(x) if world_size() > 1 else x


def gather_rows_no_grad(x: torch.Tensor) -> torch.Tensor:
    """As :func:`gather_rows`, for keys, masks and whatever else carries no gradient."""
    return _all_gather(x.detach()) if world_size() > 1 else x.detach()


def global_mean(total: torch.Tensor, count: torch.Tensor) -> torch.Tensor:
    """This rank's share of a mean over items spread unevenly over ranks.

    ``total * W / all_reduce(count).clamp(1)``: averaged over ranks it is the sum of all totals over the
    count of all items. A global count of 0 gives 0, and ``total`` stays in the graph.
    """
    count = count.detach().to(total.dtype)
    if world_size() > 1:
        count = count.clone()
        _all_reduce(count)
    return total * world_size() / count.clamp(min=1)


def all_sum(x: torch.Tensor) -> torch.Tensor:
    """Sum of a detached tensor over ranks, for logs."""
    x = x.detach().clone()
    if world_size() > 1:
        _all_reduce(x)
    return x


def mean_over_ranks(x: torch.Tensor) -> torch.Tensor:
    """Average of a detached tensor, for logs."""
    return all_sum(x) / world_size()


def _all_reduce(x: torch.Tensor) -> None:
    if not _only_imagined("all_reduce", x):
        with part("communication"):
            dist.all_reduce(x)


def _all_gather(x: torch.Tensor) -> torch.Tensor:
    carrier = x.to(torch.uint8) if x.dtype == torch.bool else x
    out = carrier.new_empty(world_size() * len(x), *x.shape[1:])
    if not _only_imagined("all_gather", out):
        with part("communication"):
            dist.all_gather_into_tensor(out, carrier.contiguous())
    return out.to(x.dtype)


def _only_imagined(name: str, whole: torch.Tensor) -> bool:
    if whole.is_meta:
        _sent[Collective(name, whole.numel() * whole.element_size())] += 1
    return whole.is_meta


class _GatherRows(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: torch.Tensor) -> torch.Tensor:
        return _all_gather(x)

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> torch.Tensor:
        (grad,) = grads
        out = grad.new_empty(len(grad) // world_size(), *grad.shape[1:])
        if not _only_imagined("reduce_scatter", grad):
            with part("communication"):
                dist.reduce_scatter_tensor(out, grad.contiguous())
        return out
