"""What a forked process does not get.

A fork shares all memory until one of the two writes to it. A trainer writes to its weights and moments at every step,
and each process that it has forked would keep the old ones: as much again for each of them.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import mmap
import os
from collections.abc import Iterator

import torch
from torch import nn

# Of <linux/mman.h>, since Linux 4.14.
_WIPE_ON_FORK, _KEEP_ON_FORK = 18, 19
_LEAST_BYTES = 1 << 20


@contextlib.contextmanager
def weights_left_out() -> Iterator[None]:
    """Processes that are forked meanwhile find zeros in the place of all large weights and moments on the CPU: of every
    module and optimizer of this process. They must not use them."""
    ranges = _pages_of(_weights())
    _advise(ranges, _WIPE_ON_FORK)
    try:
        yield
    finally:
        _advise(ranges, _KEEP_ON_FORK)  # the memory may serve for other things later


def _weights() -> Iterator[torch.Tensor]:
    for owner in gc.get_objects():
        # Not isinstance, which asks proxies for their class.
        if issubclass(type(owner), nn.Module):
            yield from (x for x in (*owner._parameters.values(), *owner._buffers.values()) if x is not None)
        elif issubclass(type(owner), torch.optim.Optimizer):
            for group in owner.param_groups:
                yield from group["params"]
            for state in owner.state.values():
                yield from (x for x in state.values() if isinstance(x, torch.Tensor))


def _pages_of(tensors: Iterator[torch.Tensor]) -> list[tuple[int, int]]:
    """Addresses and lengths of the whole pages of their storages; each once."""
    found = {}
    for tensor in tensors:
        if type(tensor) not in (torch.Tensor, nn.Parameter) or tensor.device.type != "cpu" or tensor.is_shared():
            continue
        storage = tensor.untyped_storage()
        first = -(-storage.data_ptr() // mmap.PAGESIZE) * mmap.PAGESIZE
        last = (storage.data_ptr() + storage.nbytes()) // mmap.PAGESIZE * mmap.PAGESIZE
        if last - first >= _LEAST_BYTES:
            found[first] = last - first
    return list(found.items())


def _advise(ranges: list[tuple[int, int]], advice: int) -> None:
    if not ranges or os.uname().sysname != "Linux":
        return
    madvise = ctypes.CDLL(None).madvise
    madvise.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
    for first, length in ranges:
        madvise(first, length, advice)  # refused of memory of a file: that costs what it did
