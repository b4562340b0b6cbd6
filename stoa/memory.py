"""What the C library does with memory that is freed.

By default glibc returns large freed blocks to the kernel: every new tensor or frame faults in zeroed pages again, and
processes on one machine contend for that. Kept, the memory serves the next step, which asks for the same sizes.
"""

from __future__ import annotations

import ctypes
import os

# Of <malloc.h>; mallopt takes an int.
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
_MOST = 2**31 - 1
_MOST_OF_OLD_GLIBC = 2**25  # before 2.35 more is refused

KEEP_FREED_MEMORY = {"MALLOC_MMAP_THRESHOLD_": str(_MOST_OF_OLD_GLIBC), "MALLOC_TRIM_THRESHOLD_": str(2**29)}
"""Environment of a process that is to keep blocks of up to 32 MiB, up to 512 MiB at once."""


def keep_freed_memory() -> None:
    """Let this process keep what it frees, for what it asks for next.

    Does nothing where the C library is not glibc, or where the user has set either threshold, by ``MALLOC_..._`` or by
    ``GLIBC_TUNABLES``.
    """
    if KEEP_FREED_MEMORY.keys() & os.environ.keys() or "_threshold" in os.environ.get("GLIBC_TUNABLES", ""):
        return
    libc = ctypes.CDLL(None)
    if hasattr(libc, "gnu_get_libc_version"):
        if not libc.mallopt(_M_MMAP_THRESHOLD, _MOST):
            libc.mallopt(_M_MMAP_THRESHOLD, _MOST_OF_OLD_GLIBC)
        libc.mallopt(_M_TRIM_THRESHOLD, _MOST)
