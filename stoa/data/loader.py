"""Manifest in, batches out."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, cast

import torch
from torch.utils.data import DataLoader

from stoa.data.boxes import ClipShape
from stoa.data.clips import CaptionClips, Clips, FileClips
from stoa.data.counts import Use, manifest_lines, store_lines
from stoa.data.dataset import Bundle, ClipDataset, LoadedBatch, Sample, bundle, collate
from stoa.data.decoding.base import DecodeError
from stoa.data.decoding.cpu import CpuDecoder
from stoa.data.decoding.dali import DaliDecoder
from stoa.data.decoding.encoded import EncodedFrames
from stoa.data.decoding.limits import MEMORY_BYTES
from stoa.data.ledger import Ledger
from stoa.data.loading import loader_timeout, one_line_errors, start_worker, started
from stoa.data.sampler import GlobalBatchSampler
from stoa.data.shards import ShardClips, is_store
from stoa.data.views import View
from stoa.data.workers import cores_of_rank, loader_processes
from stoa.manifest import RowCounts, read_manifest

Decoder = Literal[CpuDecoder, "dali"]


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """Where clips come from and how they are read.

    Attributes:
        manifest: a ``.jsonl`` or ``.csv`` file, or a store that ``stoa prepare`` has made: its folder or URL; null
            means Moving Shapes, generated on the spot, in pre-training, and is refused in fine-tuning.
        split: clips of it to train on.
        decoder: ``auto`` and ``pyav`` are PyAV; ``decord`` is that where it can be trusted, PyAV for the rest; ``dali``
            decodes on the GPU, or on the CPU what it can there: frame packs, VP8, VP9 and MJPEG.
        decode_timeout_seconds: a clip of which no frame comes for longer counts as hung, as does one that takes five
            times as long in all. It is read and decoded in a process of its own, which is started again when it hangs
            or crashes; 0 does without, and without the limit of memory.
        decode_memory_gib: memory that this may take, beyond what such a process has anyway.
        loader_timeout_seconds: a loader process that gives no batch for longer ends the run; 0 waits for ever. Null is
            eight times ``decode_timeout_seconds``, and eight minutes at least.
        max_bad_share: share of the clips read, of all processes, that may have to be replaced; above it a run ends. It
            is of 200 clips as long as fewer are read.
        num_workers: loader processes per rank; 0 loads in the training process. Null is what the cores of a rank allow,
            8 at most.
        cache_gib: memory each loader process may fill with decoded frames; pays off on sets that fit.
        view: what of a clip is seen; less than ``whole`` is a control.
        captions: ``one`` of a clip's captions an epoch, another one each time, or ``all``, each with the clip as a
            sample of its own, so that an epoch is so many times longer.
        together: consecutive clips of the manifest that are always in one batch: siblings, of which one is the other's
            hard negative.
    """

    manifest: str | None = None
    split: str = "train"
    decoder: Decoder = "auto"
    decode_timeout_seconds: float = 60.0
    decode_memory_gib: float = MEMORY_BYTES / 2**30
    loader_timeout_seconds: float | None = None
    max_bad_share: float = 0.1
    num_workers: int | None = None
    cache_gib: float = 0.0
    view: View = "whole"
    captions: Literal["one", "all"] = "one"
    together: int = 1

    def __post_init__(self) -> None:
        if self.num_workers is not None and self.num_workers < 0:
            raise ValueError(f"data.num_workers is {self.num_workers}; expected 0 or more")
        if not self.decode_timeout_seconds >= 0:
            raise ValueError(f"data.decode_timeout_seconds is {self.decode_timeout_seconds}; expected 0 or more")
        if self.loader_timeout_seconds is not None and not self.loader_timeout_seconds >= 0:
            raise ValueError(
                f"data.loader_timeout_seconds is {self.loader_timeout_seconds}; expected 0 or more, or null"
            )
        if not self.decode_memory_gib > 0:
            raise ValueError(f"data.decode_memory_gib is {self.decode_memory_gib}; expected a positive number")
        if not 0 <= self.max_bad_share <= 1:
            raise ValueError(f"data.max_bad_share is {self.max_bad_share}; expected a share between 0 and 1")
        if self.together < 1:
            raise ValueError(f"data.together is {self.together}; expected at least 1")
        if self.captions not in ("one", "all"):
            raise ValueError(f"data.captions is {self.captions!r}; expected 'one' or 'all'")
        if self.captions == "all" and self.together > 1:
            raise ValueError(
                f"data.captions is 'all' and data.together {self.together}: one clip with its captions would be the "
                "group; leave one of them out"
            )
        if not self.cache_gib >= 0:
            raise ValueError(f"data.cache_gib is {self.cache_gib}; expected 0 or more")

    @property
    def loader_processes(self) -> int:
        """As many as are asked for, or as the cores of a rank allow."""
        return loader_processes(cores_of_rank(os.environ)) if self.num_workers is None else self.num_workers


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
