"""GPUs that training runs on: what they hold and how fast they are, by their makers' data sheets."""

from __future__ import annotations

import difflib
import re
from typing import NamedTuple

GIB = 2**30


class Gpu(NamedTuple):
    """One GPU.

    Attributes:
        name: as it is called here.
        memory_gib: that a process can have, GiB.
        tflops: dense peak by precision, TFLOP/s; a precision that is missing is not of this GPU.
        bandwidth: of its memory, GB/s.
        link: to the other GPUs of its machine, GB/s each way.
        pattern: regular expression of the name that its driver gives it.
    """

    name: str
    memory_gib: float
    tflops: dict[str, float]
    bandwidth: float
    link: float
    pattern: str


_V100 = {"fp16": 125.0, "fp32": 15.7}
_A100 = {"fp16": 312.0, "bf16": 312.0, "fp32": 19.5}
_HOPPER = {"fp16": 989.0, "bf16": 989.0, "fp32": 67.0}
GPUS = {
    gpu.name: gpu
    for gpu in (
        Gpu("V100-16", 15.8, _V100, 900, 150, r"V100-SXM[23]-16GB"),
        Gpu("V100-32", 31.7, _V100, 900, 150, r"V100-SXM[23]-32GB"),
        Gpu("A100-40", 39.4, _A100, 1555, 300, r"A100-SXM4-40GB"),
        Gpu("A100-80", 79.2, _A100, 2039, 300, r"A100-SXM4-80GB"),
        Gpu("H100", 79.1, _HOPPER, 3350, 450, r"H100 80GB HBM3"),
        Gpu("H200", 139.8, _HOPPER, 4800, 450, r"H200$"),
    )
}


def named(name: str) -> Gpu:
    """The GPU of that name.

    Raises:
        ValueError: there is none; the message names the nearest.
    """
    if name in GPUS:
        return GPUS[name]
    written = name.upper().replace("GB", "")
    close = [known for known in GPUS if known.startswith(written)] or difflib.get_close_matches(written, GPUS, n=1)
    hint = f"did you mean {close[0]!r}? " if written and close else ""
    raise ValueError(f"--gpu {name!r} is not known; {hint}expected one of {', '.join(GPUS)}")


def of_driver(driver_name: str) -> Gpu | None:
    """The GPU that a driver calls so; none where its figures are not known."""
    return next((gpu for gpu in GPUS.values() if re.search(gpu.pattern, driver_name)), None)


def peak_tflops(driver_name: str, precision: str) -> float | None:
    """Of a GPU by the name its driver gives it, TFLOP/s; none where it is not known."""
    gpu = of_driver(driver_name)
    return None if gpu is None else gpu.tflops.get(precision)
