"""What a clip's piece of a shard holds: files that any damage may have met."""

from __future__ import annotations

import io
import json
import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from stoa.data.clips import EncodedClip, read_boxes
from stoa.data.decoding.base import DecodeError
from stoa.data.media import FramePack, VideoMedia
from stoa.manifest import ClipRow, row_from_json

BLOCK = 512  # of a tar file
_JSON, _BOXES, _VIDEO = "json", "boxes.npz", "mp4"
_FRAME = re.compile(r"\d+\.jpg")
_MOST_SLOTS = 1 << 16
_NUMBER = re.compile(rb"[ 0]*([0-7]*)[ \0]*")


def tar_members(data: bytes) -> dict[str, memoryview]:
    """Files in a piece of a USTAR archive, by what follows the first dot of their names. A cut one is left out.

    Raises:
        DecodeError: a header is damaged.
    """
    view, members, at = memoryview(data), dict[str, memoryview](), 0
    while at + BLOCK <= len(data) and data[at] != 0:
        header = data[at : at + BLOCK]
        # The field of the sum counts as spaces.
        if sum(header) - sum(header[148:156]) + 8 * 32 != _number(header[148:156]) or header[156:157] not in b"0\0":
            raise DecodeError("corrupt", f"shard: the header {at} bytes into the clip is damaged")
        name = header[:100].split(b"\0", 1)[0].decode("ascii", "replace").partition(".")[2]
        size = _number(header[124:136])
        at += BLOCK
        if at + size > len(data):
            break
        if name in members:
            raise DecodeError("corrupt", f"shard: the clip has two files {name!r}")
        members[name] = view[at : at + size]
        at += -(-size // BLOCK) * BLOCK
    return members


def _number(field: bytes) -> int:
    """Of a header, octal; -1 for what is none."""
    found = _NUMBER.fullmatch(field)
    return int(found[1] or b"0", 8) if found is not None else -1


def parse_row(data: bytes, where: str) -> ClipRow:
    """The row of a clip.

    Args:
        data: its piece of a shard.
        where: it is, for messages.

    Raises:
        DecodeError, ValueError: it is damaged.
    """
    return _row(_facts(_members(data)), where)


def parse_clip(data: bytes, where: str) -> EncodedClip:
    """Everything of a clip; arguments and errors as of :func:`parse_row`."""
    members = _members(data)
    facts = _facts(members)
    detections = read_boxes(io.BytesIO(members[_BOXES])) if _BOXES in members else None
    media = VideoMedia(bytes(members[_VIDEO]), vouched=True) if _VIDEO in members else _frame_pack(members, facts)
    return EncodedClip(_row(facts, where), media, detections)


def _members(data: bytes) -> dict[str, memoryview]:
    members = tar_members(data)
    if _JSON not in members:
        raise DecodeError("truncated", f"shard ends within the clip, {len(data)} bytes")
    return members


def _facts(members: Mapping[str, memoryview]) -> dict[str, Any]:
    facts = json.loads(bytes(members[_JSON]))
    if not isinstance(facts, dict):
        raise DecodeError("corrupt", f"shard: the clip's JSON is a {type(facts).__name__}, no object")
    return facts


def _row(facts: Mapping[str, Any], where: str) -> ClipRow:
    row = facts.get("row")
    if not isinstance(row, dict):
        raise DecodeError("corrupt", f"shard: the clip's 'row' is a {type(row).__name__}, no object")
    return row_from_json(row, where)


def _frame_pack(members: Mapping[str, memoryview], facts: Mapping[str, Any]) -> FramePack:
    jpegs = [bytes(members[name]) for name in sorted(members) if _FRAME.fullmatch(name)]
    times = np.array(facts.get("times_seconds"), dtype=np.float64)
    if times.shape != (len(jpegs),) or not len(jpegs):
        raise DecodeError(
            "truncated", f"{len(jpegs)} frames of {times.size if times.ndim == 1 else 'an unknown number'}"
        )
    duration, slots = facts.get("duration_seconds"), facts.get("num_slots")
    if not (np.isfinite(times).all() and (np.diff(times) >= 0).all() and times[0] >= 0):
        raise DecodeError("time", "shard: the times of the clip's frames do not ascend from 0")
    if not isinstance(duration, int | float) or not 0 < duration < np.inf:
        raise DecodeError("time", f"shard: the clip's duration_seconds is {duration!r}")
    if not isinstance(slots, int) or not 1 <= slots <= _MOST_SLOTS:
        raise DecodeError("corrupt", f"shard: the clip's num_slots is {slots!r}")
    return FramePack(jpegs, times, float(duration), slots)
