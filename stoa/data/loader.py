"""Manifest in, batches out."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import torch
from torch.utils.data import DataLoader

from stoa.data.boxes import ClipShape
from stoa.data.clips import CaptionClips, Clips, FileClips
from stoa.data.config import DataConfig, Decoder
from stoa.data.counts import Use, manifest_lines, store_lines
from stoa.data.dataset import Bundle, ClipDataset, LoadedBatch, Sample, bundle, collate
from stoa.data.decoding.base import DecodeError
from stoa.data.decoding.dali import DaliDecoder
from stoa.data.decoding.encoded import EncodedFrames
from stoa.data.ledger import Ledger
from stoa.data.loading import loader_timeout, one_line_errors, start_worker, started
from stoa.data.sampler import GlobalBatchSampler
from stoa.data.shards import ShardClips, is_store
from stoa.manifest import RowCounts, read_manifest


def to_train_on(clips: Clips, config: DataConfig) -> Clips:
    """The clips as an epoch has them.

    Raises:
        ValueError: all captions are asked for, of a store whose list of them is damaged.
    """
    return CaptionClips(clips) if config.captions == "all" else clips


def open_clips(manifest: str, split: str | None, ledger: Ledger, *, together: int = 1) -> Clips:
    """Clips of a split, or of all. Rows without a caption go to the ledger; captions in another script are warned of.

    Args:
        together: consecutive clips that belong to each other.

    Raises:
        ValueError: the manifest or store is missing, damaged, or has nothing of the split; or clips that belong to each
            other can no longer be told, as some are left out.
    """
    clips: Clips
    if is_store(manifest):
        clips = store = ShardClips(manifest, split)
        left_out = store.left_out
    else:
        skipped = set[str]()

        def skip(clip: str, why: str) -> None:
            skipped.add(clip)
            ledger.record("skipped", clip, why)

        counts = RowCounts()
        rows = read_manifest(manifest, split=split, on_skip=skip, counts=counts)
        left_out = len(skipped)
        clips = FileClips(rows, Path(manifest).parent, left_out=left_out, counts=counts)
    if together > 1 and left_out:
        raise ValueError(
            f"data.together is {together} and {manifest} leaves out {left_out} clip(s), so that those after them would "
            "be grouped with others; mend these clips, or take them and their group out of the manifest"
        )
    share = clips.foreign_script_share()
    if share:
        warnings.warn(
            f"{share:.1%} of the captions in {manifest} are mostly in a non-Latin script: CLIP's vocabulary cuts "
            "such words into bytes, so captions are truncated early and pre-trained weights know little of them",
            stacklevel=2,
        )
    return clips


def opening_lines(
    clips: Clips,
    manifest: str,
    split: str | None,
    use: Use,
    *,
    max_tokens: int,
    max_boxes: int,
    decoder: Decoder = DataConfig.decoder,
) -> list[str]:
    """What is said before the work begins: of which rows it is, what of them is missing, cut or dropped, and what of
    the reading does nothing.

    Args:
        clips: as :func:`open_clips` gives them for ``manifest`` and ``split``.
        use: that is made of them.
        max_tokens, max_boxes: that the model reads and sees.
        decoder: of the configuration.

    Raises:
        ValueError: most of the files are missing, or most of the boxes are not what they should be.
    """
    reading: dict[str, Any] = {"name": manifest, "split": split, "use": use}
    reading |= {"max_tokens": max_tokens, "with_boxes": max_boxes > 0}
    if isinstance(clips, ShardClips):
        lines = list(store_lines(clips.counts, clips.sizes, **reading))
        if clips.kind == "frames" and decoder not in ("dali", DataConfig.decoder):
            lines.append(f"{manifest} holds JPEG frames: decoder, which concerns video, changes nothing")
        return lines
    assert isinstance(clips, FileClips)
    return list(manifest_lines(clips.rows, clips.root, clips.counts, **reading))


def ids_of_all(manifest: str) -> set[str]:
    """Ids of the clips of all splits, of those without a caption as well."""
    if is_store(manifest):
        return set(ShardClips(manifest, None).ids())
    bare = set[str]()
    rows = read_manifest(manifest, on_skip=lambda clip, why: bare.add(clip))
    return bare | {row.id for row in rows}


def build_loader(
    config: DataConfig,
    clips: Clips,
    shape: ClipShape,
    sampler: GlobalBatchSampler,
    *,
    ledger: Ledger,
    device: torch.device,
) -> Iterator[LoadedBatch]:
    """Endless batches in the order of ``sampler``, whatever the number of workers.

    Args:
        config: how clips are read.
        clips: to train on.
        shape: what the model wants to see.
        sampler: says which clips, from its position on.
        ledger: see :class:`ClipDataset`.
        device: to be trained on. ``dali`` decodes there; of other decoders batches are on the CPU, ready to be moved.
    """
    on_device = config.decoder == "dali"
    dataset = ClipDataset(
        clips,
        shape,
        seed=sampler.seed,
        decoder="auto" if config.decoder == "dali" else config.decoder,
        timeout_seconds=config.decode_timeout_seconds,
        memory_bytes=int(config.decode_memory_gib * 2**30),
        ledger=ledger,
        cache_bytes=int(config.cache_gib * 2**30),
        encoded=on_device,
        view=config.view,
    )
    loader: DataLoader = DataLoader(
        dataset,
        batch_sampler=sampler,
        num_workers=config.loader_processes,
        timeout=_timeout(config) if config.loader_processes else 0,
        collate_fn=list if on_device else bundle,
        pin_memory=device.type == "cuda" and not on_device,
        worker_init_fn=start_worker,
        generator=torch.Generator(),  # keeps the global generator out of the loader
    )
    if not on_device:
        return one_line_errors(_joined(started(loader), pin_memory=loader.pin_memory), "data.num_workers")
    decoder = DaliDecoder(num_frames=shape.num_frames, side=shape.side, max_clips=sampler.micro_batch, device=device)
    return one_line_errors(_decode_ahead(started(loader), dataset, decoder), "data.num_workers")


def _timeout(config: DataConfig) -> float:
    if config.loader_timeout_seconds is not None:
        return config.loader_timeout_seconds
    return loader_timeout(config.decode_timeout_seconds)


def _joined(loader: Iterator[Bundle], *, pin_memory: bool) -> Iterator[LoadedBatch]:
    for frames_BTCHW, samples in loader:
        loaded = collate(samples, frames_BTCHW)
        yield loaded._replace(batch=loaded.batch.pin_memory()) if pin_memory else loaded


def _decode_ahead(loader: Iterator[list[Sample]], dataset: ClipDataset, decoder: DaliDecoder) -> Iterator[LoadedBatch]:
    """Batches with their frames decoded, the next one while the training is at one."""
    samples = next(loader)
    decoder.start([_encoded(sample) for sample in samples])
    while True:
        following: list[Sample] | Exception
        try:
            following = next(loader)
        except Exception as error:
            following = error
        try:
            frames_BTCHW = decoder.finish()
        except DecodeError:
            samples, frames_BTCHW = _one_by_one(samples, dataset, decoder)
        batch = collate(samples, frames_BTCHW)
        if isinstance(following, Exception):
            yield batch
            raise following
        samples = following
        decoder.start([_encoded(sample) for sample in samples])
        yield batch


def _one_by_one(samples: list[Sample], dataset: ClipDataset, decoder: DaliDecoder) -> tuple[list[Sample], torch.Tensor]:
    """A batch with something in it that does not decode: that is found, and replaced."""
    sound, frames = [], []
    for sample in samples:
        while True:
            try:
                frames.append(decoder.decode_one(_encoded(sample)))
                break
            except DecodeError as error:
                sample = dataset.instead_of(sample, error)
        sound.append(sample)
    return sound, torch.stack(frames)


def _encoded(sample: Sample) -> EncodedFrames:
    return cast(EncodedFrames, sample.frames_TCHW)
