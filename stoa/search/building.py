"""An index brought up to date with a folder of videos."""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from stoa.api import Model
from stoa.data.clips import FileClips
from stoa.data.decoding.base import DecodeError
from stoa.data.decoding.guard import Guard
from stoa.data.decoding.probe import duration
from stoa.data.video_files import video_files
from stoa.manifest import Caption, ClipRow
from stoa.progress import Progress
from stoa.search.index import Begun, FileState, Index
from stoa.search.threshold import UNRELATED, learned_threshold
from stoa.search.windows import Window, still, windows_of
from stoa.tasks.videos import VideoReader

AT_ONCE = 256
"""Windows between two commits: what a call that is killed may have done in vain."""
_TIMEOUT_SECONDS = 60.0


@dataclass
class Summary:
    """What was done.

    Attributes:
        indexed: videos that are new or have changed.
        kept: videos that are as they were.
        gone: videos that are there no more.
        windows: of the videos indexed.
        total_windows: in the index.
        still: that were left out.
        without_boxes: videos of those indexed that have no objects, where a folder of objects was named.
        problems: by video, why it or a part of it cannot be read; those of calls before too.
    """

    indexed: int = 0
    kept: int = 0
    gone: int = 0
    windows: int = 0
    total_windows: int = 0
    still: int = 0
    without_boxes: int = 0
    problems: dict[str, str] = field(default_factory=dict)


@dataclass
class _File:
    """A video on its way into the index.

    Attributes:
        windows: that are there.
        still: that were left out.
        unread: why windows cannot be read.
        fault: why the file holds less than it promises.
    """

    number: int
    video: str
    size_bytes: int
    mtime_ns: int
    windows: int = 0
    still: int = 0
    unread: list[str] = field(default_factory=list)
    fault: str = ""

    def state(self) -> FileState:
        problem, count = self.fault, self.windows + self.still + len(self.unread)
        if self.unread:
            which = f"{len(self.unread)} of {count} windows cannot be read: " if count > 1 else ""
            problem = which + self.unread[0]
        return FileState(self.number, self.video, self.size_bytes, self.mtime_ns, self.windows, self.still, problem)


class _Task(NamedTuple):
    """A window that is to be encoded."""

    file: _File
    window: Window
    first: bool
    last: bool


def update(index: Index, model: Model, *, retry: bool = False) -> Summary:
    """Add what is new, renew what has changed, remove what is gone. Whenever it is stopped, what was committed stays.

    Args:
        index: that this process alone writes to.
        model: whose index it is.
        retry: try videos again that could not be read.

    Raises:
        ValueError: the folder holds no video, or cannot be read.
        StorageError: the disk refuses.
    """
    found = dict(_states(index.sources.videos))
    if not found:
        raise ValueError(f"{index.sources.videos} holds no video; name a folder with some")
    known = index.files()
    kept = {
        name
        for name, (size, changed) in found.items()
        if name in known and known[name][2:4] == (size, changed) and not (retry and known[name].problem)
    }
    index.remove(known.keys() - kept)
    new = [name for name in found if name not in kept]
    summary = Summary(len(new), len(kept), len(known.keys() - found.keys()))
    summary.problems |= {name: known[name].problem for name in kept if known[name].problem}
    begun, free = index.begun(), itertools.count(index.next_number())
    files = []
    for name in new:
        before = begun.get((name, *found[name]))
        files.append(_File(before.number if before else next(free), name, *found[name]))
    index.remove_leftovers(file.number for file in files)
    if index.sources.detections is not None:
        summary.without_boxes = sum(index.sources.boxes_of(name) is None for name in new)
    _add(index, model, files, begun)
    for file in files:
        summary.windows += file.windows
        summary.still += file.still
        if problem := file.state().problem:
            summary.problems[file.video] = problem
    vectors = index.vectors()
    summary.total_windows = len(vectors.files_W)
    threshold = None
    if len(vectors.files_W):
        texts_Qd = model.embed_text(UNRELATED).numpy()
        threshold = learned_threshold(texts_Qd, lambda text_d: float(vectors.cosines(text_d).max()))
    index.finish(threshold)
    return summary


def _states(folder: Path) -> Iterator[tuple[str, tuple[int, int]]]:
    for name, path in video_files(folder):
        try:
            status = os.stat(path)
        except OSError:  # it has gone meanwhile, or is a link to nowhere
            continue
        yield name, (status.st_size, status.st_mtime_ns)


def _add(index: Index, model: Model, files: list[_File], begun: dict[tuple[str, int, int], Begun]) -> None:
    """Encode the windows of files and commit them part by part, each file with its last window."""
    tasks = _tasks(index, files, begun)
    waiting = {task.file.number for task in tasks}
    ended = [file for file in files if file.number not in waiting]
    with Progress(len(tasks), "index", "windows") as bar:
        for first in range(0, max(1, len(tasks)), AT_ONCE):
            some = tasks[first : first + AT_ONCE]
            kept, vectors_Wd = _encode(index, model, some)
            if kept:
                index.add_windows([(task.file.state(), task.window) for task in kept], vectors_Wd)
            ended += [task.file for task in some if task.last]
            if ended:
                index.add_files([file.state() for file in ended])
            ended = []
            bar.update(len(some))


def _tasks(index: Index, files: list[_File], begun: dict[tuple[str, int, int], Begun]) -> list[_Task]:
    """Windows of all files but those that are there already. What cannot be read of a file is noted in it."""
    guard = Guard(_TIMEOUT_SECONDS)
    tasks = []
    for file in files:
        before = begun.get((file.video, file.size_bytes, file.mtime_ns))
        there = before.windows if before else set()
        try:
            seconds, file.fault = guard.call(duration, str(index.sources.videos / file.video))
        except DecodeError as error:
            file.unread.append(str(error))
            continue
        windows = windows_of(seconds, index.sources.windows)
        file.windows = len(there.intersection(windows))
        left = [window for window in windows if window not in there]
        tasks += [_Task(file, window, window is windows[0], window is left[-1]) for window in left]
    guard.close()
    return tasks


def _encode(index: Index, model: Model, tasks: list[_Task]) -> tuple[list[_Task], np.ndarray]:
    """Those that show something, and their unit vectors (W, d); windows of all are counted in their files."""
    vectors: list[np.ndarray] = []
    if not tasks:
        return [], np.zeros((0, model.width), dtype=np.float32)
    kept: list[_Task] = []
    videos = VideoReader(
        FileClips([_row(index, number, task) for number, task in enumerate(tasks)], Path()),
        model.trained.model.config,
        model.trained.side,
        timeout_seconds=_TIMEOUT_SECONDS,
        batch_size=model.batch_size,
        num_workers=model.num_workers,
    )
    try:
        for read in videos:
            seen = [tasks[int(row.id)] for row in read.rows]
            shows_B = ~still(read.batch.frames_BTCHW) | torch.tensor([task.first for task in seen])
            if not index.sources.windows.skip_still:
                shows_B[:] = True
            vectors.append(model.embed_batch(read.batch)[shows_B].numpy())
            for task, shows in zip(seen, shows_B.tolist(), strict=True):
                task.file.windows += shows
                task.file.still += not shows
            kept += [task for task, shows in zip(seen, shows_B.tolist(), strict=True) if shows]
    except ValueError:
        if len(videos.unreadable) < len(tasks):
            raise
    for number, why in videos.unreadable:
        tasks[int(number)].file.unread.append(why.partition(": ")[2])
    return kept, np.concatenate([*vectors, np.zeros((0, model.width), dtype=np.float32)])


def _row(index: Index, number: int, task: _Task) -> ClipRow:
    return ClipRow(
        id=str(number),
        video=str((index.sources.videos / task.file.video).absolute()),
        captions=(Caption(""),),
        start_seconds=task.window.start_seconds,
        end_seconds=task.window.end_seconds,
        detections=index.sources.boxes_of(task.file.video),
    )
