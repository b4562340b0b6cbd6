"""What the machine's processor is, and what it can do."""

from __future__ import annotations

import contextlib
import platform
from pathlib import Path

_CPUINFO = Path("/proc/cpuinfo")
_WITH_BF16 = {"avx512_bf16", "amx_bf16", "bf16", "avx512bw"}  # the last one converts at speed


def processor_name() -> str:
    return _field("model name") or platform.machine()


def multiplies_bf16() -> bool:
    """Whether products in bf16 take no longer than in fp32, as far as the system tells."""
    flags = _field("flags") or _field("Features")
    return not flags or not _WITH_BF16.isdisjoint(flags.split())


def _field(name: str) -> str:
    with contextlib.suppress(OSError):
        for line in _CPUINFO.read_text(errors="replace").splitlines():
            key, _, value = line.partition(":")
            if key.strip() == name:
                return value.strip()
    return ""
