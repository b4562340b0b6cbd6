"""The work of a check on one file or clip. Runs in a guard's process; videos and boxes need no torch."""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache

from stoa.data.clips import read_boxes
from stoa.data.decoding.base import DecodeError, Video
from stoa.data.decoding.clip import PartReader, open_part
from stoa.data.decoding.findings import as_finding
from stoa.data.media import FramePack, choose_of_pack, decode_pack
from stoa.data.shards import ShardClips
from stoa.prepare.verdicts import PartSeconds, Verdict


def examine_video(name: str, video: Video, part: PartSeconds | None = None, clip: str | None = None) -> Verdict:
    """Decode every frame of a video, or of a part of it; ``name`` is its path in the verdict, ``clip`` the row's id."""
    reader, error, reason, duration = None, None, None, None
    try:
        found = open_part(video, *(part or (None, None)))
        duration, reader = found.index.duration_seconds, PartReader(video, found)
        reader.judge()
    except Exception as failure:
        error, reason = _finding(failure)
    return Verdict(
        path=name,
        clip=clip,
        part=part,
        error=error,
        reason=reason,
        notes=tuple(reader.notes) if reader is not None else (),
        frames_expected=reader.expected if reader is not None else None,
        frames_decoded=reader.decoded if reader is not None else None,
        duration_seconds=duration,
    )


def examine_boxes(name: str, path: str) -> Verdict:
    """Read a file of detections."""
    try:
        read_boxes(path)
    except DecodeError as failure:
        return Verdict(path=name, error=failure.kind, reason=str(failure))
    return Verdict(path=name)


def examine_clip(name: str, store: str, number: int) -> Verdict:
    """Read a clip of a store's shard and decode everything it holds.

    Raises:
        OSError: the storage does not answer.
    """
    clips = _clips(store)
    verdict = Verdict(path=name, clip=f"number {number}")
    try:
        row, media, _ = clips.place(number).read()
        verdict = replace(verdict, clip=row.id)
        if not isinstance(media, FramePack):
            found = examine_video(name, media.video)
            verdict = replace(found, clip=row.id, duration_seconds=None)
        else:
            verdict = replace(verdict, frames_expected=len(media.jpegs), frames_decoded=0)
            choose_of_pack(media, media.num_slots)  # whether they are of one size
            for decoded, (jpeg, time) in enumerate(zip(media.jpegs, media.times_seconds, strict=True), start=1):
                decode_pack(FramePack([jpeg], time[None], 1.0, 1), 1)
                verdict = replace(verdict, frames_decoded=decoded)
    except Exception as failure:
        error, reason = _finding(failure)
        verdict = replace(verdict, error=error, reason=reason)
    if verdict.error is not None:
        verdict = replace(verdict, reason=f"{verdict.reason} ({clips.where(number)})")
    return verdict


def _finding(failure: Exception) -> tuple[str, str]:
    """Kind and reason.

    Raises:
        OSError: the storage does not answer.
    """
    finding = as_finding(failure)
    if isinstance(finding, OSError):
        raise finding from None
    return finding.kind, str(finding)


@lru_cache(maxsize=1)
def _clips(store: str) -> ShardClips:
    return ShardClips(store, None)
