"""Memory of tensors on a CPU."""

from __future__ import annotations

import ctypes
import os

# Of <malloc.h>; mallopt takes an int.
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
_MOST = 2**31 - 1


def keep_freed_memory() -> None:
    """Let the C library keep what is freed, for what is asked for next.

    glibc gives a large block back when it is freed; the next one is then filled with zeros by the system, a page at
    a time, whenever a step makes a tensor, and processes beside each other wait for one another there. A training step
    asks for the same sizes over and over, so keeping the memory costs little and is what PyTorch does on a GPU.

    Does nothing where the C library is not glibc, or where the user has said by ``MALLOC_MMAP_THRESHOLD_`` or
    ``MALLOC_TRIM_THRESHOLD_`` what it should do.
    """
    if {"MALLOC_MMAP_THRESHOLD_", "MALLOC_TRIM_THRESHOLD_"} & os.environ.keys():
        return
    libc = ctypes.CDLL(None)
    if hasattr(libc, "gnu_get_libc_version"):
        libc.mallopt(_M_MMAP_THRESHOLD, _MOST)
        libc.mallopt(_M_TRIM_THRESHOLD, _MOST)
