"""What a GPU's memory holds at its fullest, and how much room it has."""

from __future__ import annotations

from typing import NamedTuple

from stoa.planning.states import States

_LIBRARIES = 1.25 * 2**30
"""CUDA's context, the work spaces of its libraries and NCCL's buffers."""
_FILLED = 0.93
"""Of the rest, what torch's allocator fills with tensors before it finds no gap for one."""


class Memory(NamedTuple):
    """Bytes. Beside weights and optimiser, which stay, the fullest moment counts: of the passes, with the gradients of
    weights, or of the update."""

    weights: int
    optimiser: int
    passes: int
    update: int

    @property
    def total(self) -> int:
        return self.weights + self.optimiser + max(self.passes, self.update)


def room(device_bytes: float) -> int:
    """Of a device's memory, what tensors can fill."""
    return int(_FILLED * (device_bytes - _LIBRARIES))


def memory_of(held: States, before: float, after: float) -> Memory:
    """Of a rank: of its states, and of a step until the first gradient and from then on; see
    :class:`stoa.planning.imagined.Step`."""
    return Memory(held.weights, held.optimiser, int(max(before, after + held.gradients)), held.update)
