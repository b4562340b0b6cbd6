"""GPUs that are known: how much they hold and how fast they are at their peak, by their makers' data sheets."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import NamedTuple

from stoa.arguments.messages import nearest

_V100 = {"fp16": 125.0, "fp32": 15.7}
_A100 = {"fp16": 312.0, "bf16": 312.0, "fp32": 19.5}
_HOPPER = {"fp16": 989.0, "bf16": 989.0, "fp32": 67.0}


class Gpu(NamedTuple):
    """Of the cards with NVLink; others of a chip are slower.

    Attributes:
        name: that people give it.
        driver_name: that its driver gives it, a pattern.
        memory_gib: that a program sees of its memory, GiB.
        tflops: dense TFLOP/s by precision, ``fp16``, ``bf16`` or ``fp32``, of those that it has.
        memory_gb_s: to its own memory, GB/s.
        link_gb_s: to the other GPUs of its machine, GB/s in one direction.
        decoders: engines that decode video (NVDEC).
    """

    name: str
    driver_name: str
    memory_gib: float
    tflops: Mapping[str, float]
    memory_gb_s: float
    link_gb_s: float
    decoders: int

    @property
    def half_precision(self) -> str:
        """``bf16`` where it has it, which needs no loss scale."""
        return "bf16" if "bf16" in self.tflops else "fp16"


GPUS = (
    Gpu("V100-16", r"(NVIDIA|Tesla) V100-SXM[23]-16GB", 15.8, _V100, 900, 150, 1),
    Gpu("V100-32", r"(NVIDIA|Tesla) V100-SXM[23]-32GB", 31.7, _V100, 900, 150, 1),
    Gpu("A100-40", r"NVIDIA A100-SXM4-40GB", 39.4, _A100, 1555, 300, 5),
    Gpu("A100-80", r"NVIDIA A100-SXM4-80GB", 79.1, _A100, 2039, 300, 5),
    Gpu("H100", r"NVIDIA H100 80GB HBM3", 79.1, _HOPPER, 3350, 450, 7),
    Gpu("H200", r"NVIDIA H200", 139.8, _HOPPER, 4800, 450, 7),
)


def gpu_named(name: str, option: str) -> Gpu:
    """A GPU by the name that people give it, in capitals or not, with "GB" behind its memory or not.

    Raises:
        ValueError: it is not known; the message names ``option`` and the nearest.
    """
    wanted = re.sub(r"^(NVIDIA|TESLA)[ -]+|GI?B$", "", name.strip().upper()).replace(" ", "-")
    for gpu in GPUS:
        if gpu.name == wanted:
            return gpu
    names = [gpu.name for gpu in GPUS]
    near = next((known for known in reversed(names) if wanted and known.startswith(wanted)), nearest(wanted, names))
    advice = f"did you mean {near}?" if near else "known are"
    raise ValueError(f"{option} {name} is no GPU known here; {advice} ({', '.join(names)})")


def peak_tflops(driver_name: str, precision: str) -> float | None:
    """Of a GPU by the name its driver gives it, TFLOP/s; none where it is not known, or has no such precision.

    Args:
        driver_name: as ``NVIDIA H200``.
        precision: ``fp16``, ``bf16`` or ``fp32``.
    """
    gpu = next((gpu for gpu in GPUS if re.fullmatch(gpu.driver_name, driver_name)), None)
    return None if gpu is None else gpu.tflops.get(precision)
