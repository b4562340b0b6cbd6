"""Videos as a program has them: paths, parts of files, or frames in memory.

Shape legend: F frames given, T frames that the model sees, H height, W width, S side of a frame.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from stoa.data.boxes import ClipShape, boxes_on_frames
from stoa.data.clips import FileClips
from stoa.data.dataset import ClipDataset, Sample, collate, guard_of_clips, sample_of
from stoa.data.decoding.guard import Guard
from stoa.data.loading import loader_timeout, one_line_errors, start_worker, started
from stoa.data.sampler import SampleKey
from stoa.data.transforms import resize_and_crop
from stoa.manifest import Caption, ClipRow
from stoa.models.config import ModelConfig
from stoa.progress import Progress
from stoa.tasks.videos import Read

_TIMEOUT_SECONDS = 60.0


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Clip:
    """A video, or a part of one.

    Attributes:
        video: path of a file, or its frames: uint8 RGB, (F, H, W, 3) or (F, 3, H, W), array or tensor.
        start_seconds, end_seconds: of the part of a file; None is its own start or end.
        detections: path of a ``.npz`` file of objects, as ``stoa detect`` writes it; None shows the model none.
    """

    video: str | os.PathLike[str] | np.ndarray | torch.Tensor
    start_seconds: float | None = None
    end_seconds: float | None = None
    detections: str | os.PathLike[str] | None = None

    def __post_init__(self) -> None:
        in_memory = isinstance(self.video, np.ndarray | torch.Tensor)
        if not in_memory and not isinstance(self.video, str | os.PathLike):
            raise ValueError(f"a video is a {type(self.video).__name__}; expected a path, or frames as array or tensor")
        if in_memory and (self.start_seconds, self.end_seconds, self.detections) != (None, None, None):
            raise ValueError("start_seconds, end_seconds and detections are for files; cut frames before you give them")


VideoInput = str | os.PathLike[str] | np.ndarray | torch.Tensor | Clip
VideoInputs = Sequence[VideoInput]


def guard_for_inputs() -> Guard:
    """Of videos that are read by one call after the other: to start its process takes longer than to read a clip."""
    return guard_of_clips(_TIMEOUT_SECONDS)


def read_inputs(
    videos: Sequence[VideoInput],
    config: ModelConfig,
    side: int,
    *,
    batch_size: int,
    num_workers: int,
    guard: Guard | None = None,
    progress: bool = False,
) -> Iterator[Read]:
    """Batches of all of them, in order. The rows of a batch are called by their numbers, from "0" on.

    Args:
        videos: at least one.
        config, side: of the model that sees them.
        batch_size: videos at a time.
        num_workers: loader processes; 0 decodes here.
        guard: of :func:`guard_for_inputs`, whose process then reads the next ones too; None makes one.
        progress: show it.

    Raises:
        ValueError: a video cannot be read, or is none; names it.
    """
    inputs = _Inputs([video if isinstance(video, Clip) else Clip(video=video) for video in videos], config, side, guard)
    loader: DataLoader = DataLoader(
        inputs,
        batch_size=batch_size,
        num_workers=num_workers,
        timeout=loader_timeout(_TIMEOUT_SECONDS) if num_workers else 0,
        collate_fn=list,
        worker_init_fn=start_worker,
        generator=torch.Generator(),
    )
    with Progress(len(inputs), "read", "videos", show=progress) as shown:
        first = 0
        for samples in one_line_errors(started(loader), "num_workers"):
            yield Read(inputs.rows[first : first + len(samples)], collate(samples).batch)
            first += len(samples)
            shown.update(len(samples))


class _Inputs(Dataset[Sample]):
    def __init__(self, clips: Sequence[Clip], config: ModelConfig, side: int, guard: Guard | None) -> None:
        self._clips = clips
        self._shape = ClipShape(
            num_frames=config.num_frames, side=side, max_tokens=config.max_tokens, max_boxes=config.num_boxes
        )
        self.rows = [_row(number, clip) for number, clip in enumerate(clips)]
        files = FileClips(self.rows, Path())
        self._files = ClipDataset(files, self._shape, seed=0, timeout_seconds=_TIMEOUT_SECONDS, guard=guard)

    def __len__(self) -> int:
        return len(self._clips)

    def __getitem__(self, number: int) -> Sample:
        frames = self._clips[number].video
        if isinstance(frames, str | os.PathLike):
            return self._files.load(number)
        frames_THWC = _chosen(frames, self._shape.num_frames, number)
        empty = boxes_on_frames(None, np.zeros(0), self._shape)
        row, frames_TCHW = self.rows[number], resize_and_crop(frames_THWC, self._shape.side)
        key = SampleKey(number, 0, number)
        return sample_of(row.id, frames_TCHW, empty, Caption(""), self._shape.max_tokens, key=key)


def _row(number: int, clip: Clip) -> ClipRow:
    return ClipRow(
        id=str(number),
        video=os.path.abspath(clip.video) if isinstance(clip.video, str | os.PathLike) else "frames",
        captions=(Caption(""),),
        start_seconds=clip.start_seconds,
        end_seconds=clip.end_seconds,
        detections=None if clip.detections is None else os.path.abspath(clip.detections),
    )


def _chosen(frames: np.ndarray | torch.Tensor, num_frames: int, number: int) -> np.ndarray:
    """Frames at the middles of equal parts, uint8 (T, H, W, 3)."""
    given = frames.detach().cpu().numpy() if isinstance(frames, torch.Tensor) else frames
    if given.dtype != np.uint8 or given.ndim != 4 or not len(given) or 3 not in (given.shape[1], given.shape[3]):
        raise ValueError(
            f"video {number} is {tuple(given.shape)} {given.dtype}; expected frames (F, H, W, 3) or (F, 3, H, W), uint8"
        )
    chosen = given[((np.arange(num_frames) + 0.5) * len(given) / num_frames).astype(np.int64)]
    return chosen if given.shape[3] == 3 else np.ascontiguousarray(chosen.transpose(0, 2, 3, 1))
