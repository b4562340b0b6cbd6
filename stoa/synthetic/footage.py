"""A folder of videos, read into reels once for all clips of a data set."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path

import av
import numpy as np
from av.video.reformatter import VideoReformatter

from stoa.data.decoding.base import DecodeError
from stoa.data.decoding.cpu import decode_clip
from stoa.data.decoding.guard import Guard, alive
from stoa.data.decoding.probe import probe
from stoa.data.video_files import video_files
from stoa.files import sha256, write_whole, writing
from stoa.progress import Progress
from stoa.synthetic.windows import Footage
from stoa.text_files import read_own

MOST_REELS = 64
MOST_SIZE = 512
"""Of a clip's side in pixels: a reel is in memory whole while it is read."""
_REEL_SECONDS = 12.0
_MARGIN = 1.5
"""The short side of a reel in sides of a clip: room to crop from."""
_WIDEST = 4 / 3
_FRAMES_AT_ONCE = 16
_TIMEOUT_SECONDS = 60.0
_FACTS, _REEL = "footage.json", "reel_{:02d}.npy"


def footage_files(folder: str) -> list[tuple[str, Path]]:
    """Name and path of the videos that reels are made of: the first of the folder, in order.

    Raises:
        ValueError: there is none, or the folder cannot be read.
    """
    if not Path(folder).is_dir():
        raise ValueError(f"footage is {folder}, which is no folder; pass a folder of videos")
    files = [(name, Path(path)) for name, path in video_files(Path(folder))]
    if not files:
        raise ValueError(f"footage is {folder}, which holds no video; pass a folder of videos")
    return files[:MOST_REELS]


def fingerprint(folder: str) -> dict[str, str]:
    """The sha256 of every file that reels are made of, by name. Raises as :func:`footage_files`."""
    return {name: sha256(path) for name, path in footage_files(folder)}


def read_footage(folder: str, out: Path, *, fps: int, side: int, say: Callable[[str], None]) -> None:
    """Decode the reels into the folder ``out``, for :func:`open_footage`; done before, it is not done again.

    Args:
        side: of the clips in pixels.
        say: is told of each file that cannot be decoded, which is left out.

    Raises:
        ValueError: no file of the folder can be decoded; or as :func:`footage_files`.
        StorageError: the disk refuses.
    """
    if (out / _FACTS).exists():
        return
    height = 2 * round(_MARGIN * side / 2)
    files, count = footage_files(folder), 0
    guard = Guard(_TIMEOUT_SECONDS)
    try:
        with Progress(len(files), "synth footage", "files") as progress:
            for name, path in files:
                try:
                    frames_THWC = guard.call(read_reel, str(path), fps, height)
                except DecodeError as error:
                    say(f"footage: {name} is left out: {error}")
                else:
                    with writing(out / _REEL.format(count)):
                        np.save(out / _REEL.format(count), frames_THWC)
                    count += 1
                progress.update(1)
    finally:
        guard.close()
    if not count:
        raise ValueError(f"footage is {folder}, of whose {len(files)} videos none can be decoded; pass others")
    write_whole(out / _FACTS, json.dumps({"reels": count, "fps": fps}))


def open_footage(out: Path) -> Footage:
    """What :func:`read_footage` has written there, mapped into memory."""
    facts = read_own(out / _FACTS, ("reels", "fps"), "delete this folder")
    reels = [np.load(out / _REEL.format(number), mmap_mode="r") for number in range(facts["reels"])]
    return Footage(reels, facts["fps"])


def read_reel(path: str, fps: int, height: int) -> np.ndarray:
    """The first seconds of a video, (T, height, 4 / 3 of it, 3) uint8: scaled, and cropped to the middle."""
    seconds = min(_REEL_SECONDS, probe(path).duration_seconds)
    total = max(1, int(seconds * fps))
    parts = []
    for first in range(0, total, _FRAMES_AT_ONCE):
        count = min(_FRAMES_AT_ONCE, total - first)
        frames_THWC = decode_clip(path, count, first / total * seconds, (first + count) / total * seconds).frames_THWC
        parts.append(_scaled(frames_THWC, height))
        alive()
    return np.concatenate(parts)


def _scaled(frames_THWC: np.ndarray, height: int) -> np.ndarray:
    """So that height and 4 / 3 of it are covered, of which the middle is kept."""
    width = 2 * round(_WIDEST * height / 2)
    rows, columns = frames_THWC.shape[1:3]
    scale = max(height / rows, width / columns)
    to_height, to_width = max(height, math.ceil(rows * scale)), max(width, math.ceil(columns * scale))
    y, x = (to_height - height) // 2, (to_width - width) // 2
    reformatter = VideoReformatter()
    scaled = [
        reformatter.reformat(
            av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), format="rgb24"),
            width=to_width,
            height=to_height,
            interpolation="AREA",
            threads=1,
        ).to_ndarray()
        for frame in frames_THWC
    ]
    return np.stack(scaled)[:, y : y + height, x : x + width]
