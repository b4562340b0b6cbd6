"""How clips are read. Needs no torch."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Literal

from stoa.data.decoding.limits import MEMORY_BYTES
from stoa.data.workers import cores_of_rank, loader_processes

View = Literal["whole", "blind", "one_frame", "shuffled"]
"""``blind``: black frames and no boxes; ``one_frame``: the middle one, again and again; ``shuffled``: the frames, each
with its boxes, in an order drawn once for each clip."""


CpuDecoder = Literal["auto", "decord", "pyav"]


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
