"""The work of a check on one file or clip. Runs in a guard's process; videos and boxes need no torch."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING

from stoa.data.decoding.base import DecodeError, Video
from stoa.data.decoding.cpu import count_frames
from stoa.data.decoding.probe import probe
from stoa.detections import Detections
from stoa.prepare.verdicts import Verdict

if TYPE_CHECKING:
    from stoa.data.shards import ShardClips

# What damage does to code that computes with what it has read.
_DAMAGE = (ArithmeticError, LookupError, MemoryError, RuntimeError, TypeError, ValueError)


def examine_video(name: str, video: Video) -> Verdict:
    """Decode every frame of a video; ``name`` is its path in the verdict."""
    expected = decoded = duration = None
    try:
        index = probe(video)
        expected, duration, decoded = len(index.times_seconds), index.duration_seconds, 0
        decoded, damaged = count_frames(video, index)
        error, reason = _judge(expected, decoded, damaged)
    except DecodeError as failure:
        error, reason = failure.kind, str(failure)
    except _DAMAGE as failure:
        error, reason = "corrupt", _one_line(failure)
    return Verdict(
        path=name,
        error=error,
        reason=reason,
        frames_expected=expected,
        frames_decoded=decoded,
        duration_seconds=duration,
    )


def examine_boxes(name: str, path: str) -> Verdict:
    """Read a file of detections."""
    try:
        Detections.load(path)
    except ValueError as failure:
        return Verdict(path=name, error="boxes", reason=_one_line(failure))
    return Verdict(path=name)


def examine_clip(name: str, store: str, number: int) -> Verdict:
    """Read a clip of a store's shard and decode everything it holds.

    Raises:
        OSError: the storage does not answer.
    """
    from stoa.data.media import FramePack, decode_pack

    clips = _clips(store)
    clip, expected, decoded = f"number {number}", None, None
    try:
        row, media, _ = clips.read(number)
        clip = row.id
        if not isinstance(media, FramePack):
            found = examine_video(name, media.video)
            expected, decoded, error, reason = found.frames_expected, found.frames_decoded, found.error, found.reason
        else:
            expected, decoded = len(media.jpegs), 0
            for jpeg, time in zip(media.jpegs, media.times_seconds, strict=True):
                decode_pack(FramePack([jpeg], time[None], 1.0, 1), 1)
                decoded += 1
            error, reason = _judge(expected, decoded, 0)
    except DecodeError as failure:
        error, reason = failure.kind, str(failure)
    except _DAMAGE as failure:
        error, reason = "corrupt", _one_line(failure)
    if error is not None:
        reason = f"{reason} ({clips.where(number)})"
    return Verdict(path=name, clip=clip, error=error, reason=reason, frames_expected=expected, frames_decoded=decoded)


def _judge(expected: int, decoded: int, damaged: int) -> tuple[str | None, str | None]:
    if decoded < expected:
        return "corrupt", f"{decoded} of {expected} frames decode"
    if damaged:
        return "corrupt", f"{damaged} of {decoded} frames decode damaged"
    return None, None


def _one_line(error: Exception) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())[:300]


@lru_cache(maxsize=1)
def _clips(store: str) -> ShardClips:
    from stoa.data.shards import ShardClips

    return ShardClips(store, None)
