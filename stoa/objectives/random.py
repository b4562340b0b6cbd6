"""A counter-based generator: random numbers as a pure function of (seed, stream, step, positions).

The same clip draws the same numbers for any number of processes. Philox4x32-10 of Salmon et al.,
"Parallel random numbers: as easy as 1, 2, 3" (SC 2011), in integer tensor operations, so it runs on any
device without a host sync.
"""

from __future__ import annotations

import enum

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


def uniform(seed: int, step: int, stream: Stream, rows: torch.Tensor, columns: torch.Tensor) -> torch.Tensor:
    """Uniform float32 numbers in (0, 1), one for each (row, column).

    Args:
        seed: of the run.
        step: of the optimiser; a step's numbers never return.
        rows: int64, positions in the global batch.
        columns: int64, broadcastable with ``rows``.
    """
    counter = (
        rows & _MASK,
        columns & _MASK,
        torch.full_like(rows, step & _MASK),
        torch.full_like(rows, int(stream)),
    )
    word, _, _, _ = philox(counter, (seed & _MASK, seed >> 32 & _MASK))
    return ((word >> 9).to(torch.float32) + 0.5) * 2.0**-23
