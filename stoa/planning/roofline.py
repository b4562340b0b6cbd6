"""How long a step takes at the limits of a GPU, of its host and of the links between GPUs: modelled, not measured."""

from __future__ import annotations

from collections import Counter
from typing import NamedTuple

from stoa.costs.devices import Gpu
from stoa.costs.tracing import Work

PRODUCTS = 0.7
"""Of the peak of a data sheet, what large products of matrices reach."""
MEMORY = 0.8
"""Of the bandwidth of a data sheet, what an operation reaches that does little else than read and write."""
LINKS = 0.8
HOST_SECONDS = 6e-6
"""That the host takes to issue an operation."""
UPDATE_OPERATIONS = 120
UPDATE_BYTES = 50
"""A weight, read and written: gradient, norm, clipping, fp32 weight and both moments, weight of the model."""


class Cluster(NamedTuple):
    """Attributes:
    gpu: of which all are.
    nodes: machines.
    gpus_per_node: of each.
    network_gbit: that a machine sends and receives, Gbit/s.
    """

    gpu: Gpu
    nodes: int
    gpus_per_node: int
    network_gbit: float

    @property
    def world(self) -> int:
        return self.nodes * self.gpus_per_node


class Seconds(NamedTuple):
    """Of an optimiser step.

    Attributes:
        device: that the GPU works in the passes.
        host: that the host takes to issue them; the longer of both counts.
        update: of the optimiser.
        communication: that nothing hides.
    """

    device: float
    host: float
    update: float
    communication: float

    @property
    def total(self) -> float:
        return max(self.device, self.host) + self.update + self.communication


def passes(work: Counter[Work], gpu: Gpu, precision: str) -> float:
    """Device seconds of operations, each as long as its arithmetic or its traffic takes, whichever is longer."""
    flops, traffic = PRODUCTS * 1e12 * gpu.tflops[precision], MEMORY * 1e9 * gpu.memory_gb_s
    return sum(times * max(one.flops / flops, one.bytes / traffic) for one, times in work.items())


def update(trained: int, cluster: Cluster, *, partitioned: bool) -> float:
    """Seconds of the optimiser, for all weights or, partitioned, for one of as many parts as there are ranks."""
    own = trained / cluster.world if partitioned else trained
    return max(UPDATE_BYTES * own / (MEMORY * 1e9 * cluster.gpu.memory_gb_s), UPDATE_OPERATIONS * HOST_SECONDS)


def communication(gradient_bytes: float, cluster: Cluster, *, hidden: float, reductions: int = 1) -> float:
    """Seconds that are seen of reducing gradients and gathering weights in rings.

    Args:
        gradient_bytes: of all that is trained.
        cluster: whose slowest link sets the pace.
        hidden: seconds that the reduction may take without being seen.
        reductions: of gradients in a step.
    """
    if cluster.world == 1:
        return 0.0
    links = [cluster.gpu.link_gb_s] * (cluster.gpus_per_node > 1) + [cluster.network_gbit / 8] * (cluster.nodes > 1)
    once = (1 - 1 / cluster.world) * gradient_bytes / (LINKS * 1e9 * min(links))
    return max(0.0, reductions * once - hidden) + once
