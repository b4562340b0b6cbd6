"""Manifest in, batches out."""

from __future__ import annotations

import hashlib
import signal
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from torch.utils.data import DataLoader

from stoa.data.dataset import ClipDataset, ClipShape, LoadedBatch, collate
from stoa.data.ledger import Ledger
from stoa.data.sampler import GlobalBatchSampler
from stoa.data.text import foreign_script_share
from stoa.manifest import ClipRow, read_manifest


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """Where clips come from and how they are read.

    Attributes:
        manifest: a ``.jsonl`` or ``.csv`` file; none means Moving Shapes, generated on the spot.
        split: rows of the manifest to train on.
        decoder: ``auto`` is decord, then PyAV for what decord cannot read.
        num_workers: loader processes per rank; 0 loads in the training process.
        cache_gib: memory each loader process may fill with decoded frames; pays off on sets that fit.
    """

    manifest: str | None = None
    split: str = "train"
    decoder: Literal["auto", "decord", "pyav"] = "auto"
    num_workers: int = 2
    cache_gib: float = 0.0

    def __post_init__(self) -> None:
        if self.num_workers < 0:
            raise ValueError(f"data.num_workers is {self.num_workers}; expected 0 or more")
        if not self.cache_gib >= 0:
            raise ValueError(f"data.cache_gib is {self.cache_gib}; expected 0 or more")


def read_rows(config: DataConfig, manifest: Path, ledger: Ledger) -> list[ClipRow]:
    """Rows to train on. Rows without a caption go to the ledger; captions in another script are warned of once."""
    rows = read_manifest(manifest, split=config.split, on_skip=lambda clip, why: ledger.record("skipped", clip, why))
    captions = [caption for row in rows for caption in row.captions]
    share = foreign_script_share(captions)
    if share:
        warnings.warn(
            f"{share:.1%} of the captions in {manifest} are mostly in a non-Latin script: CLIP's vocabulary cuts "
            "such words into bytes, so captions are truncated early and pre-trained weights know little of them",
            stacklevel=2,
        )
    return rows


def fingerprint(rows: Sequence[ClipRow]) -> str:
    """Hash of the clips and captions, in order."""
    digest = hashlib.sha256()
    for row in rows:
        digest.update(repr((row.id, row.video, [caption.text for caption in row.captions])).encode())
    return digest.hexdigest()


def build_loader(
    config: DataConfig,
    rows: list[ClipRow],
    root: Path,
    shape: ClipShape,
    sampler: GlobalBatchSampler,
    *,
    ledger: Ledger,
    pin_memory: bool,
) -> Iterator[LoadedBatch]:
    """Endless batches in the order of ``sampler``, whatever the number of workers."""
    dataset = ClipDataset(
        rows,
        root,
        shape,
        seed=sampler.seed,
        decoder=config.decoder,
        ledger=ledger,
        cache_bytes=int(config.cache_gib * 2**30),
    )
    loader: DataLoader = DataLoader(
        dataset,
        batch_sampler=sampler,
        num_workers=config.num_workers,
        collate_fn=collate,
        pin_memory=pin_memory,
        worker_init_fn=_start_worker,
        generator=torch.Generator(),  # keeps the global generator out of the loader
    )
    return _one_line_errors(iter(loader))


def _one_line_errors(batches: Iterator[LoadedBatch]) -> Iterator[LoadedBatch]:
    """A worker's error arrives with the worker's traceback around it; the user gets its last line."""
    try:
        yield from batches
    except (ValueError, OSError) as error:
        last = str(error).strip().splitlines()[-1]
        raise type(error)(last.removeprefix(f"{type(error).__name__}: ")) from None
    except RuntimeError as error:
        if "DataLoader worker" not in str(error):
            raise
        reason = " ".join(str(error).split())
        raise ValueError(f"a loader process died ({reason}); lower data.num_workers or free memory") from None


def _start_worker(worker: int) -> None:
    torch.set_num_threads(1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the trainer ends its workers
