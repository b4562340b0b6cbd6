"""How fast GPUs are at their peak, by their makers' data sheets."""

from __future__ import annotations

import re

_V100 = {"fp16": 125.0, "fp32": 15.7}
_A100 = {"fp16": 312.0, "bf16": 312.0, "fp32": 19.5}
_HOPPER = {"fp16": 989.0, "bf16": 989.0, "fp32": 67.0}

# Dense TFLOP/s by precision, for the names that drivers give to the cards with NVLink; others of a chip are slower.
_PEAKS = {
    r"V100-SXM[23]-(16|32)GB": _V100,
    r"A100-SXM4-(40|80)GB": _A100,
    r"H100 80GB HBM3": _HOPPER,
    r"H200": _HOPPER,
}


def peak_tflops(driver_name: str, precision: str) -> float | None:
    """Of a GPU by the name its driver gives it, TFLOP/s; none where it is not known, or has no such precision.

    Args:
        driver_name: as ``NVIDIA H200``.
        precision: ``fp16``, ``bf16`` or ``fp32``.
    """
    return next(
        (
            peaks.get(precision)
            for name, peaks in _PEAKS.items()
            if re.fullmatch(rf"(NVIDIA|Tesla) {name}", driver_name)
        ),
        None,
    )
