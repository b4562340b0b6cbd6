"""Detections that ``stoa detect`` has made, by clip."""

from __future__ import annotations

from pathlib import Path

from stoa.manifest import manifest_rows


def detections_by_clip(manifest: Path) -> dict[str, str]:
    """Path of the detections of every clip that has some, by the clip's id.

    Args:
        manifest: which ``stoa detect`` has written.

    Raises:
        ValueError: it is malformed, or none of its rows names detections.
    """
    found = {row.id: row.detections for _, row in manifest_rows(manifest)}
    paths = {clip: str((manifest.parent / path).resolve()) for clip, path in found.items() if path is not None}
    if not paths:
        raise ValueError(
            f"--detections.path {manifest}: none of its {len(found)} rows names detections; pass the "
            "manifest.jsonl that 'stoa detect' has written"
        )
    return paths
