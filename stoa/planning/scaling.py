"""The same choice on ever more GPUs: modelled, not measured."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from stoa.planning.links import Cluster
from stoa.planning.plan import Choice, Estimate, Planner
from stoa.planning.reading import decoding, read_mb
from stoa.planning.words import aligned


class Scaling:
    """What a choice needs on one GPU, on two, on four and so on, each with as many clips.

    Args:
        planner: of the recipe on machines of one kind.
        choice: see :class:`Choice`.
        most: GPUs.

    Attributes:
        rows: of each number of GPUs.
    """

    def __init__(self, planner: Planner, choice: Choice, most: int) -> None:
        self.room, self.gpu = planner.room, planner.cluster.gpu
        self.num_frames = planner.run.model.config.num_frames
        self.rows: list[tuple[Cluster, Estimate]] = []
        for cluster in _clusters(planner.cluster, most):
            each = Planner(planner.run, cluster, planner.precision)
            self.rows.append((cluster, each.estimate(choice, exact=True)))

    def efficiency(self, row: Estimate, world: int) -> float:
        """Samples/s of a GPU, over those of one GPU alone."""
        return row.samples_per_second / world / self.rows[0][1].samples_per_second

    def lines(self) -> list[str]:
        choice = self.rows[0][1].choice
        heads = ["GPUs", "machines", "clips", "step, s", "passes", "update", "clips of others", "gradients", "waits"]
        heads += ["GiB", "samples/s", "efficiency", "read, GB/s"]
        told = [heads]
        for cluster, row in self.rows:
            seconds, total = row.seconds, row.memory.total
            parts = (seconds.total, seconds.passes, *seconds[2:])
            told.append(
                [
                    f"{cluster.world:,}",
                    f"{cluster.nodes:,}",
                    f"{cluster.world * choice.clips:,}",
                    *(f"{part:.3f}" for part in parts),
                    f"{total / 2**30:.1f}" if total <= self.room else "too much",
                    f"{row.samples_per_second:,.0f}",
                    f"{self.efficiency(row, cluster.world):.0%}",
                    f"{read_mb(row.samples_per_second, self.num_frames) / 1000:.1f}",
                ]
            )
        within = [(cluster, row) for cluster, row in self.rows if cluster.nodes == 1]
        cluster, row = within[-1]
        return [
            f"modelled, not measured: {choice.clips} clips a GPU, on ever more of them",
            *aligned(told),
            f"decoding for a machine's {cluster.world} GPUs: "
            + decoding(row.samples_per_second, self.num_frames, self.gpu, cluster.world),
        ]

    def as_json(self) -> list[dict[str, Any]]:
        return [
            {
                "gpus": cluster.world,
                "nodes": cluster.nodes,
                "seconds": {**row.seconds._asdict(), "total": row.seconds.total},
                "memory": row.memory.total,
                "fits": row.memory.total <= self.room,
                "samples_per_second": row.samples_per_second,
                "efficiency": self.efficiency(row, cluster.world),
            }
            for cluster, row in self.rows
        ]


def _clusters(full: Cluster, most: int) -> Iterator[Cluster]:
    """Doubled, first the GPUs of a machine, then machines."""
    gpus = 1
    while gpus < min(most, full.gpus_per_node):
        yield full._replace(nodes=1, gpus_per_node=gpus)
        gpus *= 2
    nodes = 1
    while nodes * full.gpus_per_node <= most:
        yield full._replace(nodes=nodes)
        nodes *= 2
