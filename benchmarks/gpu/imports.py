"""Which packages this machine has for the check: those that are there must import.

PYTHONPATH=.:benchmarks python -m gpu.imports --out imports.json
"""

from __future__ import annotations

import argparse
import importlib
import importlib.metadata
import json
import sys
from pathlib import Path

from gpu.steps import importable

#: Module and distribution of what a GPU machine may have.
PACKAGES = {
    "av": "av",
    "decord": "decord",
    "deepspeed": "deepspeed",
    "hypothesis": "hypothesis",
    "nvidia.dali": "nvidia-dali-cuda130",
    "open_clip": "open_clip_torch",
    "tensorboard": "tensorboard",
    "triton": "triton",
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, help="JSON file to write")
    args = parser.parse_args()
    found, wrong = {}, []
    for module, distribution in PACKAGES.items():
        if not importable(module):
            found[module] = "missing"
            continue
        try:
            importlib.import_module(module)
            found[module] = _version(distribution)
        except Exception as error:  # a package may fail in any way
            found[module] = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
            wrong.append(module)
    print("\n".join(f"{module:12} {what}" for module, what in found.items()))
    if args.out:
        args.out.write_text(json.dumps(found, indent=2) + "\n")
    if wrong:
        sys.exit(f"installed and not importable: {', '.join(wrong)}")
    print(f"missing: {', '.join(module for module, what in found.items() if what == 'missing') or 'nothing'}")


def _version(distribution: str) -> str:
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:  # of another name, for another CUDA
        return "of unknown version"


if __name__ == "__main__":
    main()
