"""What a piece of work issues and holds, from each of its operations. It reads shapes alone, so it counts as well on
tensors without data (the meta device)."""

from __future__ import annotations

import weakref
from collections import Counter
from collections.abc import Iterable
from typing import Any, NamedTuple

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry
from torch.utils.weak import WeakIdKeyDictionary

# They only look at a tensor in another way.
_VIEWS = ("aten.detach", "aten._unsafe_view", "aten.alias", "aten.lift_fresh", "prim.")


class Work(NamedTuple):
    """Of one operation.

    Attributes:
        flops: of products of matrices and convolutions.
        bytes: that it reads and writes.
    """

    flops: float
    bytes: float


class Tracer(TorchDispatchMode):
    """Counts what is done inside it.

    Attributes:
        work: how often an operation did as much. Those that only make another view of a tensor launch nothing, and are
            none.
        peak: most bytes of live tensors at a time, those that it knows of included.
        peak_by_kind: the same by kind: those of :meth:`know`, and ``activations`` for the rest.
    """

    def __init__(self) -> None:
        super().__init__()
        self.work: Counter[Work] = Counter()
        self.live: Counter[str] = Counter()
        self.peak = 0
        self.peak_by_kind: Counter[str] = Counter()
        self._kinds: Any = WeakIdKeyDictionary()

    @property
    def operations(self) -> int:
        return self.work.total()

    def know(self, kind: str, tensors: Iterable[torch.Tensor]) -> None:
        """Tensors that there are already, or that are of this kind and no activation."""
        for tensor in tensors:
            self._add(tensor, kind)
        self._look()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        out = func(*args, **kwargs)
        made = _tensors(out)
        for tensor in made:
            self._add(tensor, "activations", new=True)
        if not (func.is_view or str(func).startswith(_VIEWS)):
            formula = flop_registry.get(func.overloadpacket)
            flops = 0 if formula is None else formula(*args, **kwargs, out_val=out)
            self.work[Work(flops, sum(map(_bytes, made + _tensors((args, kwargs)))))] += 1
        self._look()
        return out

    def _add(self, tensor: torch.Tensor, kind: str, *, new: bool = False) -> None:
        storage = tensor.untyped_storage()
        before = self._kinds.get(storage)
        if before is not None and (new or before[0] == kind):
            return
        if before is not None:
            self.live[before[0]] -= before[1]
            before[0] = kind
            self.live[kind] += before[1]
            return
        entry: list[Any] = [kind, storage.nbytes()]
        self._kinds[storage] = entry
        self.live[kind] += entry[1]
        weakref.finalize(storage, self._free, entry)

    def _free(self, entry: list[Any]) -> None:
        self.live[entry[0]] -= entry[1]

    def _look(self) -> None:
        total = sum(self.live.values())
        if total > self.peak:
            self.peak, self.peak_by_kind = total, Counter(self.live)


def _tensors(values: Any) -> list[torch.Tensor]:
    return [leaf for leaf in tree_leaves(values) if isinstance(leaf, torch.Tensor)]


def _bytes(tensor: torch.Tensor) -> int:
    """That there are, however often an expanded tensor repeats them."""
    return min(tensor.numel() * tensor.element_size(), tensor.untyped_storage().nbytes())
