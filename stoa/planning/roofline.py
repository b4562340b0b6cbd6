"""How long a step takes at the limits of a GPU and of its host: modelled, not measured."""

from __future__ import annotations

from collections import Counter
from typing import NamedTuple

from stoa.costs.devices import Gpu
from stoa.costs.tracing import Work
from stoa.planning.links import Cluster

PRODUCTS = 0.7
"""Of the peak of a data sheet, what large products of matrices reach."""
MEMORY = 0.8
"""Of the bandwidth of a data sheet, what an operation reaches that does little else than read and write."""
HOST_SECONDS = 6e-6
"""That the host takes to issue an operation."""
UPDATE_OPERATIONS = 120
UPDATE_BYTES = 50
"""A weight, read and written: gradient, norm, clipping, fp32 weight and both moments, weight of the model."""


class Seconds(NamedTuple):
    """Of an optimiser step.

    Attributes:
        device: that the GPU works in the passes.
        host: that the host takes to issue them; the longer of both counts.
        update: of the optimiser.
        gathering: of other ranks' clips, for the losses.
        communication: of gradients and weights, that nothing hides.
        waiting: for the slowest rank.
    """

    device: float
    host: float
    update: float
    gathering: float
    communication: float
    waiting: float

    @property
    def total(self) -> float:
        return self.passes + self.update + self.gathering + self.communication + self.waiting

    @property
    def passes(self) -> float:
        """Of the slower of device and host."""
        return max(self.device, self.host)


def passes(work: Counter[Work], gpu: Gpu, precision: str) -> float:
    """Device seconds of operations, each as long as its arithmetic or its traffic takes, whichever is longer."""
    flops, traffic = PRODUCTS * 1e12 * gpu.tflops[precision], MEMORY * 1e9 * gpu.memory_gb_s
    return sum(times * max(one.flops / flops, one.bytes / traffic) for one, times in work.items())


def update(trained: int, cluster: Cluster, *, partitioned: bool) -> float:
    """Seconds of the optimiser, for all weights or, partitioned, for one of as many parts as there are ranks."""
    own = trained / cluster.world if partitioned else trained
    return max(UPDATE_BYTES * own / (MEMORY * 1e9 * cluster.gpu.memory_gb_s), UPDATE_OPERATIONS * HOST_SECONDS)
