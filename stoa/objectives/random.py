"""A counter-based generator: random numbers as a pure function of (seed, stream, step, positions).

The same clip draws the same numbers for any number of processes. Philox4x32-10 of Salmon et al.,
"Parallel random numbers: as easy as 1, 2, 3" (SC 2011), in integer tensor operations, so it runs on any
device without a host sync.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping

import torch

_MASK = 0xFFFFFFFF
_MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
_WEYL = (0x9E3779B9, 0xBB67AE85)


class Stream(enum.IntEnum):
    """Independent sequences, one a purpose."""

    VTM_VIDEO = 0
    VTM_TEXT = 1
    MLM = 2
    PLM = 3


def philox(
    counter: tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor], key: tuple[int, int]
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Ten rounds of Philox4x32. Counter words are int64 tensors in [0, 2^32) that broadcast."""
    c0, c1, c2, c3 = torch.broadcast_tensors(*counter)
    k0, k1 = key
    for _ in range(10):
        p0, p1 = _MULTIPLIERS[0] * c0, _MULTIPLIERS[1] * c2  # wraps modulo 2^64, so both halves are right
        c0, c1, c2, c3 = (p1 >> 32 & _MASK) ^ c1 ^ k0, p1 & _MASK, (p0 >> 32 & _MASK) ^ c3 ^ k1, p0 & _MASK
        k0, k1 = (k0 + _WEYL[0]) & _MASK, (k1 + _WEYL[1]) & _MASK
    return c0, c1, c2, c3


def uniform(
    seed: int, step: int | torch.Tensor, rows_B: torch.Tensor, sizes: Mapping[Stream, int]
) -> dict[Stream, torch.Tensor]:
    """Uniform float32 numbers in (0, 1) of some streams, drawn together: (B, n) each, one for each row and column.

    Args:
        seed: of the run.
        step: of the optimiser, a number or a tensor () on the device of the rows; a step's numbers never return.
        rows_B: int64, positions in the global batch.
        sizes: columns of each stream.
    """
    if not sizes:
        return {}
    columns = torch.cat([torch.arange(size, device=rows_B.device) for size in sizes.values()])
    streams = torch.cat([torch.full((size,), stream, device=rows_B.device) for stream, size in sizes.items()])
    counter = (rows_B[:, None] & _MASK, columns, torch.zeros_like(columns) + (step & _MASK), streams)
    word, _, _, _ = philox(counter, (seed & _MASK, seed >> 32 & _MASK))
    numbers = ((word >> 9).to(torch.float32) + 0.5) * 2.0**-23
    return dict(zip(sizes, numbers.split(list(sizes.values()), dim=1), strict=True))
