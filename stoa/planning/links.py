"""How long ranks take to reach each other: modelled, not measured.

Collectives are NCCL's, rings and trees, with the latencies that it reckons with itself when it chooses between them
(``src/graph/tuning.cc``, commit 01afd20). Shape legend: W ranks.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from statistics import NormalDist
from typing import NamedTuple

from stoa.costs.devices import Gpu
from stoa.objectives.gather import Collective

LINKS = 0.8
"""Of the bandwidth of a data sheet."""
UNEVEN = 0.01
"""Standard deviation of the passes' time over ranks, each step anew, of that time."""
_BACKWARD = 2 / 3
"""Of the passes' time."""


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

    @property
    def slowest_link(self) -> float:
        """Bytes/s, of more than one GPU."""
        links = [self.gpu.link_gb_s] * (self.gpus_per_node > 1) + [self.network_gbit / 8] * (self.nodes > 1)
        return LINKS * 1e9 * min(links)


class _Way(NamedTuple):
    """Of sending: which share of the links' bandwidth it takes, and seconds to start and to each neighbour, within a
    machine and across the network."""

    share: float
    start: float
    machine: float
    network: float


_RINGS = (_Way(1 / 4, 3.6e-6, 0.47e-6, 2.7e-6), _Way(1.0, 8.4e-6, 3.4e-6, 9.6e-6))
_TREES = (_Way(0.9 / 3.8, 4.4e-6, 0.52e-6, 5.0e-6), _Way(0.9, 0.0, 28e-6, 50e-6))


def seconds(collective: Collective, cluster: Cluster) -> float:
    """Of one collective of all ranks, by the quickest way. In a ring the slowest link sets the pace, and each rank
    waits for all others once; to reduce for all, twice."""
    W, nodes = cluster.world, cluster.nodes
    if W == 1:
        return 0.0
    passes = 2 if collective.name == "all_reduce" else 1
    transfer = passes * collective.bytes / cluster.slowest_link
    found = [
        way.start
        + passes * ((W - nodes) * way.machine + (nodes - 1) * way.network)
        + (1 - 1 / W) * transfer / way.share
        for way in _RINGS
    ]
    if collective.name == "all_reduce":
        hops = (cluster.gpus_per_node - 1, math.ceil(math.log2(nodes)))
        found += [
            way.start + passes * (hops[0] * way.machine + hops[1] * way.network) + transfer / way.share
            for way in _TREES
        ]
    return min(found)


def gathering(sent: Mapping[Collective, int], cluster: Cluster) -> float:
    """Seconds of what the objectives send in a pass; see :class:`stoa.planning.imagined.Step`."""
    return sum(times * seconds(collective, cluster) for collective, times in sent.items())


class Traffic(NamedTuple):
    """Of gradients and weights in an optimiser step.

    Attributes:
        behind: in each pass, while the rest of the backward pass (ZeRO 3: of both passes) is computed.
        seen: once, while nothing is computed.
    """

    behind: Counter[Collective]
    seen: Counter[Collective]


def traffic(stage: int, trained_bytes: float, bucket_bytes: float) -> Traffic:
    """What DeepSpeed sends of so many bytes of trained weights, whose gradients have as many. ZeRO 1 and 2 reduce each
    gradient for all ranks, of which each keeps its part; only ZeRO 3 reduces it for one."""
    buckets = max(1, math.ceil(trained_bytes / bucket_bytes))
    reduced = Counter({Collective("all_reduce", trained_bytes / buckets): buckets})
    gathered = Counter({Collective("all_gather", trained_bytes): 1})
    if stage == 0:
        return Traffic(Counter(), reduced)
    if stage < 3:
        return Traffic(reduced, gathered)
    each = {Collective("all_gather", trained_bytes / buckets): 2 * buckets}
    return Traffic(Counter(each | {Collective("reduce_scatter", trained_bytes / buckets): buckets}), Counter())


def communication(
    stage: int, trained_bytes: float, bucket_bytes: float, cluster: Cluster, *, passes: float, accumulation: int = 1
) -> float:
    """Seconds of gradients and weights that are seen.

    Args:
        stage: of ZeRO.
        trained_bytes: weights that are trained.
        bucket_bytes: that are reduced at once.
        cluster: the ranks.
        passes: seconds of a forward and a backward pass, behind which is hidden what can be.
        accumulation: passes of a step. ZeRO 0 and 1 reduce behind the last.
    """
    behind, seen = traffic(stage, trained_bytes, bucket_bytes)
    hidden = passes if stage == 3 else _BACKWARD * passes
    times = accumulation if stage > 1 else 1
    return times * max(0.0, gathering(behind, cluster) - hidden) + gathering(seen, cluster)


def waiting(passes: float, cluster: Cluster) -> float:
    """Seconds that the slowest of all ranks takes longer than their mean, where their times are normal (Blom's
    approximation of the largest of W)."""
    return UNEVEN * passes * NormalDist().inv_cdf((cluster.world - 0.375) / (cluster.world + 0.25))
