"""The order of training: a pure function of (seed, epoch, rank, world).

One permutation a (seed, epoch) gives the global batches; rank r takes the r-th contiguous slice of each.
So W ranks with micro-batch b see the clips of one rank with micro-batch W*b.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np

STATE_VERSION = 2
_SPLIT = ("world", "global_batch")


class SampleKey(NamedTuple):
    """One sample of one step.

    Attributes:
        clip: its index in the manifest.
        epoch: of the permutation.
        position: in the global batch.
    """

    clip: int
    epoch: int
    position: int


class GlobalBatchSampler:
    """Endless batches of this rank. The last, incomplete batch (and group) of an epoch is left out.

    Args:
        num_samples: clips in the manifest.
        micro_batch: clips of this rank in a batch.
        rank, world: this process among all.
        seed: of the run.
        fingerprint: of the clips and captions; a saved position holds for the same ones only.
        together: consecutive clips of the manifest that are always in one batch, side by side.

    Raises:
        ValueError: there are fewer clips than one global batch, or a batch does not hold whole groups.
    """

    def __init__(
        self,
        num_samples: int,
        micro_batch: int,
        *,
        rank: int,
        world: int,
        seed: int,
        fingerprint: str = "",
        together: int = 1,
    ) -> None:
        self.global_batch = micro_batch * world
        if micro_batch % together:
            raise ValueError(
                f"data.together is {together}, of which train_micro_batch_size_per_gpu {micro_batch} in the DeepSpeed "
                "config is no multiple; change one of them"
            )
        if num_samples < self.global_batch:
            raise ValueError(
                f"the manifest has {num_samples} usable training clips, fewer than one global batch of "
                f"{self.global_batch} ({world} processes x micro-batch {micro_batch}); lower "
                "train_micro_batch_size_per_gpu in the DeepSpeed config or add clips"
            )
        self.num_samples = num_samples
        self.micro_batch = micro_batch
        self.rank, self.world, self.seed = rank, world, seed
        self.together = together
        self.batches_per_epoch = num_samples // together * together // self.global_batch
        self.fingerprint = fingerprint
        self.epoch = self.taken = 0

    def __iter__(self) -> Iterator[list[SampleKey]]:
        """Batches behind the ``taken`` clips of ``epoch``. Iterating does not move these: a loader reads ahead of the
        training, which says itself how far it is (:meth:`advance`)."""
        epoch, taken = self._next(self.epoch, self.taken)
        while True:
            order = permutation(self.num_samples, self.seed, epoch, self.together)
            while taken + self.global_batch <= len(order):
                start = self.rank * self.micro_batch
                indices = order[taken + start :][: self.micro_batch]
                yield [SampleKey(int(i), epoch, start + k) for k, i in enumerate(indices)]
                taken += self.global_batch
            epoch, taken = epoch + 1, 0

    def advance(self, batches: int) -> None:
        """The training has had so many batches more."""
        for _ in range(batches):
            epoch, taken = self._next(self.epoch, self.taken)
            self.epoch, self.taken = self._next(epoch, taken + self.global_batch)

    def _next(self, epoch: int, taken: int) -> tuple[int, int]:
        """Where the next whole batch begins."""
        usable = self.num_samples // self.together * self.together
        return (epoch, taken) if taken + self.global_batch <= usable else (epoch + 1, 0)

    def state_dict(self) -> dict[str, Any]:
        names = ("epoch", "taken", "num_samples", "seed", "fingerprint", "together", *_SPLIT)
        return {"version": STATE_VERSION, **{name: getattr(self, name) for name in names}}

    def load_state_dict(self, state: dict[str, Any], *, reshaped: bool = False) -> None:
        """Continue where the state was taken.

        Args:
            state: of :meth:`state_dict`.
            reshaped: the number of processes and the global batch may be others. The epoch's order stays as it is, and
                the next batch begins behind the last clip that was taken.

        Raises:
            ValueError: the state is of another data set, batch, seed or number of processes; the message
                gives both values.
        """
        for name, current in self.state_dict().items():
            if name in ("epoch", "taken") or (reshaped and name in _SPLIT) or state.get(name) == current:
                continue
            remedy = ", or go on with this one by --resume-reshaped" if name in _SPLIT else ""
            raise ValueError(
                f"the checkpoint's data order has {name} {state.get(name)}, this run has {current}; resume with the "
                f"same data, seed, batch and number of processes, or start in another training.output_dir{remedy}"
            )
        self.epoch, self.taken = int(state["epoch"]), int(state["taken"])


def permutation(num_samples: int, seed: int, epoch: int, together: int = 1) -> np.ndarray:
    """Order of the clips in an epoch, groups of so many consecutive ones staying whole."""
    groups = np.random.Generator(np.random.Philox(key=[seed, epoch])).permutation(num_samples // together)
    return (groups[:, None] * together + np.arange(together)).reshape(-1)
