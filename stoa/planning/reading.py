"""What a GPU wants to be fed: loader processes and bandwidth, modelled from what benchmarks/data.py has measured."""

from __future__ import annotations

import math

from stoa.costs.devices import Gpu

PROCESS_FRAMES = 560
"""Frames/s that one loader process reads, decodes and resizes: two of them load 93.5 clips/s of 12 frames (frame packs
for 224 px, benchmarks/results/data_real.json)."""
SLOWER = {"frame packs": 1.0, "re-encoded video": 16.0 / 5.2, "original files": 16.0}
"""Times as long as that other files take there; the original ones are of 300 frames, of which 12 are used."""
FRAME_KB = 61
"""Of a frame in a frame pack: 732 kB a clip of 12 frames there."""
DECODER_FRAMES = 1082
"""Frames/s of one NVDEC engine, 1080p: as published (PyNvVideoCodec, NVIDIA/DALI#5672), not measured here."""
CLIP_FRAMES = 300
"""That such an engine decodes of an original file to reach all that are used."""


def processes(samples_per_second: float, num_frames: int, files: str = "frame packs") -> int:
    """Loader processes for so many clips a second."""
    return max(1, math.ceil(samples_per_second * num_frames * SLOWER[files] / PROCESS_FRAMES))


def read_mb(samples_per_second: float, num_frames: int) -> float:
    """MB/s that they read."""
    return samples_per_second * num_frames * FRAME_KB / 1000


def decoder_clips(gpu: Gpu, gpus: int) -> float:
    """Original clips a second that the engines of so many GPUs decode."""
    return gpus * gpu.decoders * DECODER_FRAMES / CLIP_FRAMES


def decoding(samples_per_second: float, num_frames: int, gpu: Gpu, gpus: int) -> str:
    """What so many GPUs, which take so many clips a second, want of their machine."""
    cores = [f"{processes(samples_per_second, num_frames, files):,} from {files}" for files in SLOWER]
    return (
        f"{samples_per_second:,.0f} clips/s, which want {', '.join(cores)} (loader processes, a core each); NVDEC "
        f"decodes {decoder_clips(gpu, gpus):,.0f} original clips/s"
    )
