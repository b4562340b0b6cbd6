"""A detector over the clips of a manifest.

The folder that it writes holds ``detections/``, ``labels.json``, ``manifest.jsonl`` (the rows of the manifest, of all
splits, with ``detections`` where there are some), ``ledger.jsonl`` and ``detect.json``, which tells by what the
detections were made.
"""

from __future__ import annotations

import json
import os
import time
import zlib
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from stoa.data.decoding.base import DecodedFrames, DecodeError
from stoa.data.decoding.cpu import decode_guarded
from stoa.data.decoding.guard import Guard
from stoa.data.ledger import Ledger
from stoa.detections import Detections
from stoa.files import replacing, sha256, write_whole, writing
from stoa.locks import only_writer
from stoa.manifest import ClipRow, read_manifest, write_manifest
from stoa.names import file_name
from stoa.prepare.detections.config import DetectorConfig
from stoa.prepare.detections.detector import Detector
from stoa.prepare.detections.labels import write_class_names
from stoa.progress import Progress
from stoa.text_files import on_disk, read_own

_TIMEOUT_SECONDS = 300.0  # a video that takes longer to decode counts as hung


def detect_manifest(
    config: DetectorConfig,
    manifest: str | os.PathLike[str],
    out: str | os.PathLike[str],
    *,
    split: str | None = None,
    videos: str | os.PathLike[str] | None = None,
    say: Callable[[str], None] = print,
) -> None:
    """Detect on every clip that has no detections in ``out`` so far, and write the manifest that names them.

    A clip that does not decode is recorded in the ledger, and its row has no detections.

    Args:
        split: detect on the rows of this split only.
        videos: folder that the rows' videos are relative to; None is that of the manifest.
        say: called with one line on what was kept, and on what was done.

    Raises:
        ValueError: the manifest or the detector is unusable, ``out`` is a file or holds what this did not make with
            the same settings, or no clip decodes.
    """
    manifest, out = Path(manifest), Path(out)
    root = manifest.parent if videos is None else Path(videos)
    rows = read_manifest(manifest, split=split, uncaptioned=True)  # clips that questions are about have no caption
    every = rows if split is None else read_manifest(manifest, uncaptioned=True)
    with only_writer(out, "--out"):
        detector = Detector(config)
        _claim(out, _identity(config, detector.class_names))
        write_class_names(out / "labels.json", detector.class_names)
        _detect(config, detector, manifest, rows, every, root, out, say)


def _detect(
    config: DetectorConfig,
    detector: Detector,
    manifest: Path,
    rows: list[ClipRow],
    every: list[ClipRow],
    root: Path,
    out: Path,
    say: Callable[[str], None],
) -> None:
    ledger, guard = Ledger(out / "ledger.jsonl"), Guard(_TIMEOUT_SECONDS)
    missing = [row for row in rows if not (out / _path_of(row)).is_file()]
    kept = len(rows) - len(missing)
    detected = boxes = 0
    failures: list[str] = []
    started = time.perf_counter()
    with Progress(len(rows), "detect", "clips") as progress:
        progress.skip(kept)
        for row in missing:
            try:
                decoded = _decode(guard, on_disk(root / row.video), row, config.num_frames, ledger)
            except DecodeError as error:
                ledger.record("skipped", row.id, str(error), path=str(root / row.video))
                failures = failures or [f"clip {row.id!r}, {root / row.video}: {error}"]
            else:
                detections = detector(decoded.frames_THWC, decoded.times_seconds)
                _save(detections, out / _path_of(row))
                detected += 1
                boxes += len(detections.labels)
            progress.update()
    if not kept + detected:
        raise ValueError(f"no clip of {manifest} decodes; the first: {failures[0]}")
    _write_manifest(every, root, out)
    if kept:
        say(f"{out} already held the detections of {kept} clips; they are kept")
    skipped = len(rows) - kept - detected
    say(
        f"{out}: detections of {detected} clips, {boxes} boxes, in {time.perf_counter() - started:.1f} s"
        + (f"; {skipped} clips do not decode, see {ledger.path}" if skipped else "")
    )


def _decode(guard: Guard, path: Path, row: ClipRow, num_frames: int, ledger: Ledger) -> DecodedFrames:
    decoded, _ = decode_guarded(guard, str(path), num_frames, row.start_seconds, row.end_seconds, "auto")
    for note in decoded.notes:
        ledger.record("note", row.id, note, path=str(path))
    return decoded


def _identity(config: DetectorConfig, class_names: list[str]) -> dict[str, Any]:
    """What must agree for detections to belong together."""
    identity: dict[str, Any] = {**asdict(config), "class_names": class_names}
    for name in ("labels", "device", "batch_frames"):
        del identity[name]
    if config.weights != "DEFAULT":
        identity["weights"] = f"sha256 {sha256(Path(config.weights))}"
    return identity


def _claim(out: Path, identity: dict[str, Any]) -> None:
    marker = out / "detect.json"
    if not marker.is_file():
        for name in ("detections", "labels.json", "manifest.jsonl"):
            if (out / name).exists():
                raise ValueError(f"{out} holds {name} and no detect.json; pass a new or empty folder")
        write_whole(marker, json.dumps(identity, indent=1))
        return
    found = read_own(marker, (), "delete this folder, or pass another --out")
    for key, value in identity.items():
        if found.get(key) != value:
            raise ValueError(
                f"{out} holds detections made with {key} {str(found.get(key))[:80]}, but {key} {str(value)[:80]} is "
                "asked for; pass another folder or delete this one"
            )


def _path_of(row: ClipRow) -> str:
    """Relative to the folder; ids may hold any character, and one folder must not hold millions of files. Another part,
    or another video, under the same id has another file."""
    part = zlib.crc32(repr((row.video, row.start_seconds, row.end_seconds)).encode(errors="surrogatepass"))
    folder = zlib.crc32(row.id.encode(errors="surrogatepass")) % 256
    return f"detections/{folder:02x}/{file_name(row.id)}-{part:08x}.npz"


def _save(detections: Detections, path: Path) -> None:
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as temporary, open(temporary, "wb") as file:
        detections.save(file)


def _write_manifest(rows: list[ClipRow], root: Path, out: Path) -> None:
    def with_detections(row: ClipRow) -> ClipRow:
        path = _path_of(row)
        return replace(
            row,
            video=row.video if os.path.isabs(row.video) else os.path.relpath(root / row.video, out),
            detections=path if (out / path).is_file() else None,
        )

    with replacing(out / "manifest.jsonl") as temporary:
        write_manifest(temporary, map(with_detections, rows))
