"""What a GPU wants to be fed: loader processes and bandwidth, modelled from what benchmarks/data.py has measured."""

from __future__ import annotations

import math

PROCESS_FRAMES = 560
"""Frames/s that one loader process reads, decodes and resizes: two of them load 93.5 clips/s of 12 frames (frame packs
for 224 px, benchmarks/results/data_real.json)."""
FRAME_KB = 61
"""Of a frame in a frame pack: 732 kB a clip of 12 frames there."""


def processes(samples_per_second: float, num_frames: int) -> int:
    """Loader processes for so many clips a second."""
    return max(1, math.ceil(samples_per_second * num_frames / PROCESS_FRAMES))


def read_mb(samples_per_second: float, num_frames: int) -> float:
    """MB/s that they read."""
    return samples_per_second * num_frames * FRAME_KB / 1000
