"""What the C library does with memory that is freed.

By default glibc returns large freed blocks to the kernel: every new tensor or frame faults in zeroed pages again, and
processes on one machine contend for that. Kept, the memory serves the next step, which asks for the same sizes.

That holds for blocks that are small beside all the memory of a process, as those of small models are. What a full-size
model frees leaves gaps of which the next large block fits none, so the heap grows without bound: such blocks stay the
kernel's, which takes them back at once and whole.
"""

from __future__ import annotations

import ctypes
import os

# Of <malloc.h>.
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
# 32 MiB is also the most that glibc before 2.35 takes.
_KEPT_BLOCK, _KEPT_AT_ONCE = 2**25, 2**29

KEEP_FREED_MEMORY = {"MALLOC_MMAP_THRESHOLD_": str(_KEPT_BLOCK), "MALLOC_TRIM_THRESHOLD_": str(_KEPT_AT_ONCE)}
"""Environment of a process that is to keep blocks of up to 32 MiB, up to 512 MiB at once."""


def keep_freed_memory() -> None:
    """Let this process keep blocks of up to 32 MiB that it frees, up to 512 MiB at once, for what it asks for next.

    Does nothing where the C library is not glibc, or where the user has set either threshold, by ``MALLOC_..._`` or by
    ``GLIBC_TUNABLES``.
    """
    if KEEP_FREED_MEMORY.keys() & os.environ.keys() or "_threshold" in os.environ.get("GLIBC_TUNABLES", ""):
        return
    libc = ctypes.CDLL(None)
    if hasattr(libc, "gnu_get_libc_version"):
        libc.mallopt(_M_MMAP_THRESHOLD, _KEPT_BLOCK)
        libc.mallopt(_M_TRIM_THRESHOLD, _KEPT_AT_ONCE)
