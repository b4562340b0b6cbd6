"""Stores as ``stoa prepare`` makes them."""

from collections.abc import Sequence
from pathlib import Path

from stoa.manifest import ClipRow, write_manifest
from stoa.prepare.adapters import open_annotations
from stoa.prepare.config import PrepareConfig, StoreConfig
from stoa.prepare.pipeline import prepare


def small_stores(folder: Path, rows: Sequence[ClipRow], *, frames: int) -> Path:
    """Of videos of the folder, two to a shard.

    Returns:
        a folder with ``frames`` and ``video``.
    """
    write_manifest(folder / "manifest.jsonl", rows)
    config = PrepareConfig(
        out=str(folder / "out"),
        videos=str(folder),
        spacy=None,
        stores=("frames", "video"),
        store=StoreConfig(clips_per_shard=2, frames=frames),
    )
    annotations = open_annotations("manifest", folder / "manifest.jsonl")
    prepare(config, annotations, folder, engine="local", workers=1, say=lambda line: None)
    return folder / "out"
