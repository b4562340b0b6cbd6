"""A folder of videos, read into reels once for all clips of a data set."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from itertools import islice
from pathlib import Path

import av
import numpy as np
from av.video.reformatter import VideoReformatter

from stoa.data.decoding.base import DecodeError
from stoa.data.decoding.cpu import decode_clip
from stoa.data.decoding.guard import Guard, alive
from stoa.data.decoding.probe import probe
from stoa.data.video_files import video_files
from stoa.files import in_units, open_regular, write_whole, writing
from stoa.progress import Progress
from stoa.synthetic.windows import Footage
from stoa.text_files import read_own

MOST_REELS = 64
_MOST_BYTES = 1 << 28
"""Of a reel, which is in memory whole while it is read."""
_REEL_SECONDS = 12.0
_MARGIN = 1.5
"""The short side of a reel in sides of a clip: room to crop from."""
_WIDEST = 4 / 3
_FRAMES_AT_ONCE = 16
_TIMEOUT_SECONDS = 60.0
_OF_THE_MACHINE = {"hang", "crash", "limit"}
"""Kinds of findings that another machine might not have."""
_FACTS, _REEL = "footage.json", "reel_{:02d}.npy"


def require_reels_fit(size: int, fps: int) -> None:
    """Raises ValueError where a reel for clips of this size and rate is too large."""
    height, width = _reel_hw(size)
    if (needed := int(_REEL_SECONDS * fps) * height * width * 3) > _MOST_BYTES:
        raise ValueError(
            f"size is {size} and fps {fps}; {_REEL_SECONDS:g} seconds of footage would take {in_units(needed)} of the "
            f"{in_units(_MOST_BYTES)} that they may; lower size or fps"
        )


def _reel_hw(size: int) -> tuple[int, int]:
    height = 2 * round(_MARGIN * size / 2)
    return height, 2 * round(_WIDEST * height / 2)


def footage_files(folder: str) -> list[tuple[str, Path]]:
    """Name and path of the videos that reels are made of: the first of the folder, in order.

    Raises:
        ValueError: there is none, or the folder cannot be read.
    """
    if not Path(folder).is_dir():
        raise ValueError(f"footage is {folder}, which is no folder; pass a folder of videos")
    files = [(name, Path(path)) for name, path in islice(video_files(Path(folder)), MOST_REELS)]
    if not files:
        raise ValueError(f"footage is {folder}, which holds no video; pass a folder of videos")
    return files


def fingerprint(folder: str) -> dict[str, str]:
    """The sha256 of every file that reels are made of, by name; nothing of one that cannot be opened. Raises as
    :func:`footage_files`."""
    return {name: _digest(path) for name, path in footage_files(folder)}


def _digest(path: Path) -> str:
    try:
        with open_regular(path) as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except (OSError, ValueError):  # it is named when it is to be decoded
        return ""


def told_apart(found: dict[str, str], wanted: dict[str, str]) -> str:
    """How the footage that is there differs from what a data set was made of."""
    kinds = {
        "new": wanted.keys() - found.keys(),
        "gone": found.keys() - wanted.keys(),
        "changed": {name for name in found.keys() & wanted.keys() if found[name] != wanted[name]},
    }
    return ", ".join(
        f"{kind}: {min(names)}{' and others' * (len(names) > 1)}" for kind, names in kinds.items() if names
    )


def read_footage(folder: str, out: Path, *, fps: int, side: int, say: Callable[[str], None]) -> None:
    """Decode the reels into the folder ``out``, for :func:`open_footage`; done before, it is not done again.

    Args:
        side: of the clips in pixels.
        say: is told of each file that cannot be decoded, which is left out.

    Raises:
        ValueError: no file of the folder can be decoded, or one takes too long or too much; or as
            :func:`footage_files`.
        StorageError: the disk refuses.
    """
    if (out / _FACTS).exists():
        return
    height, width = _reel_hw(side)
    files, count = footage_files(folder), 0
    guard = Guard(_TIMEOUT_SECONDS)
    try:
        with Progress(len(files), "synth footage", "files") as progress:
            for name, path in files:
                try:
                    frames_THWC = guard.call(read_reel, str(path), fps, height, width)
                except DecodeError as error:
                    if error.kind in _OF_THE_MACHINE:  # elsewhere it might be read, and make another data set
                        raise ValueError(f"footage: {path} cannot be read: {error}; take it out of {folder}") from None
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


def read_reel(path: str, fps: int, height: int, width: int) -> np.ndarray:
    """The first seconds of a video, (T, height, width, 3) uint8: cropped to that shape, and scaled. HDR stays as it is
    stored."""
    seconds = min(_REEL_SECONDS, probe(path).duration_seconds)
    total = max(1, int(seconds * fps))
    reel = np.empty((total, height, width, 3), np.uint8)
    for first in range(0, total, _FRAMES_AT_ONCE):
        count = min(_FRAMES_AT_ONCE, total - first)
        frames_THWC = decode_clip(path, count, first / total * seconds, (first + count) / total * seconds).frames_THWC
        reel[first : first + count] = _scaled(_cropped(frames_THWC, height, width), height, width)
        alive()
    return reel


def _cropped(frames_THWC: np.ndarray, height: int, width: int) -> np.ndarray:
    """The middle of the frames, of this shape, as large as there is."""
    rows, columns = frames_THWC.shape[1:3]
    tall, wide = min(rows, max(1, columns * height // width)), min(columns, max(1, rows * width // height))
    y, x = (rows - tall) // 2, (columns - wide) // 2
    return frames_THWC[:, y : y + tall, x : x + wide]


def _scaled(frames_THWC: np.ndarray, height: int, width: int) -> np.ndarray:
    converter = VideoReformatter()
    scaled = [
        converter.reformat(
            av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), format="rgb24"),
            width=width,
            height=height,
            interpolation="AREA",
            threads=1,
        ).to_ndarray()
        for frame in frames_THWC
    ]
    return np.stack(scaled)
