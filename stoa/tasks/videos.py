"""Videos of an evaluation, decoded by loader processes and encoded batch by batch.

Shape legend: see :class:`stoa.batch.VideoTextBatch`.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch.utils.data import DataLoader, Dataset, get_worker_info

from stoa.batch import VideoTextBatch
from stoa.data.boxes import ClipShape
from stoa.data.clips import Clips
from stoa.data.config import CpuDecoder, View
from stoa.data.dataset import ClipDataset, Sample, collate
from stoa.data.loading import loader_timeout, one_line_errors, started
from stoa.manifest import ClipRow
from stoa.models.config import ModelConfig
from stoa.progress import Progress


class Read(NamedTuple):
    """Some clips: their rows, and their frames and boxes on the CPU."""

    rows: list[ClipRow]
    batch: VideoTextBatch


class VideoReader:
    """Reads every clip once, in order.

    Args:
        clips: of a manifest or a store.
        config: of the model that sees them.
        side: of the frames it sees.
        decoder: see :class:`stoa.data.loader.DataConfig`.
        timeout_seconds: a video that takes longer is unreadable; 0 decodes without a process of its own.
        batch_size: clips at a time.
        num_workers: loader processes; 0 decodes in this one.
        view: what of a clip is seen.
        name: of what is done with them, for the progress shown.

    Attributes:
        unreadable: (id, reason) of the clips left out, once they have been come to.
        with_boxes: of the others, how many have boxes on the frames seen.
    """

    def __init__(
        self,
        clips: Clips,
        config: ModelConfig,
        side: int,
        *,
        decoder: CpuDecoder = "auto",
        timeout_seconds: float = 60.0,
        batch_size: int = 16,
        num_workers: int = 0,
        view: View = "whole",
        name: str = "encode",
    ) -> None:
        shape = ClipShape(
            num_frames=config.num_frames, side=side, max_tokens=config.max_tokens, max_boxes=config.num_boxes
        )
        self.clips = clips
        self.unreadable: list[tuple[str, str]] = []
        self.with_boxes = 0
        self._samples = _Samples(
            ClipDataset(clips, shape, seed=0, decoder=decoder, timeout_seconds=timeout_seconds, view=view)
        )
        self._batch_size, self._num_workers, self._name = batch_size, num_workers, name
        self._timeout = loader_timeout(timeout_seconds)

    def __len__(self) -> int:
        return len(self.clips)

    def __iter__(self) -> Iterator[Read]:
        """Batches of the readable clips.

        Raises:
            ValueError: none can be read.
        """
        loader: DataLoader = DataLoader(
            self._samples,
            batch_size=self._batch_size,
            num_workers=self._num_workers,
            timeout=self._timeout if self._num_workers else 0,
            collate_fn=list,
            generator=torch.Generator(),
        )
        self.unreadable.clear()
        self.with_boxes = 0
        with Progress(len(self.clips), self._name, "clips") as progress:
            for results in one_line_errors(started(loader), "--num_workers"):
                failed = [result for result in results if isinstance(result, _Failed)]
                if failed:
                    ids = self.clips.ids()
                    self.unreadable += [(ids[number], why) for number, why in failed]
                sound = [result for result in results if not isinstance(result, _Failed)]
                if sound:
                    batch = collate([sample for _, sample in sound]).batch
                    self.with_boxes += int((batch.labels_BTK >= 0).flatten(1).any(1).sum())
                    yield Read([row for row, _ in sound], batch)
                progress.update(len(results))  # once these are done with
        if len(self.unreadable) == len(self.clips):
            raise ValueError(f"none of the {len(self.clips)} videos can be read; the first: {self.unreadable[0][1]}")


class _Failed(NamedTuple):
    """A clip that cannot be read."""

    number: int
    why: str


class _Samples(Dataset):
    """A clip's row and sample, or what is wrong with it."""

    def __init__(self, dataset: ClipDataset) -> None:
        self.dataset = dataset

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> tuple[ClipRow, Sample] | _Failed:
        try:
            sample = self.dataset.load(index)
        except ValueError as error:
            return _Failed(index, str(error))
        if get_worker_info() is not None and isinstance(sample.frames_TCHW, torch.Tensor):
            # Here, where an error is told: the thread that hands samples on loses one, which is then waited for.
            sample.frames_TCHW.share_memory_()
        return self.dataset.clips.row(index), sample
