"""Packages brought along as wheels (make gpu-site), for a machine that can fetch none."""

from __future__ import annotations

import importlib.metadata
import os
import sys
import tempfile
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from email.parser import Parser
from pathlib import Path

from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.tags import sys_tags
from packaging.utils import canonicalize_name, parse_wheel_filename

ROOT = Path(__file__).resolve().parent.parent.parent
SITE = ROOT / "build" / "gpu-site"
_TOOLKIT = ("/usr/local/cuda/bin", "/usr/local/cuda/compute-sanitizer")  # often not on PATH


@contextmanager
def packages() -> Iterator[None]:
    """Within this, programs find this tree, what ``build/gpu-site`` has and the machine has not, and CUDA's tools.

    Raises:
        ValueError: a wheel is for another Python.
    """
    with tempfile.TemporaryDirectory(prefix="gpu-site-") as folder:
        unpacked = unpack_missing(SITE / "wheels", Path(folder))
        print(f"taken from {SITE.relative_to(ROOT)}: {', '.join(unpacked) or 'nothing'}", flush=True)
        before = {name: os.environ.get(name) for name in ("PYTHONPATH", "PATH")}
        sys.path.append(folder)  # where what a step needs is looked for
        inherited = filter(None, [os.environ.get("PYTHONPATH")])
        os.environ["PYTHONPATH"] = os.pathsep.join([str(ROOT), str(ROOT / "benchmarks"), folder, *inherited])
        os.environ["PATH"] = os.pathsep.join([os.environ.get("PATH", os.defpath), *_TOOLKIT])
        try:
            yield
        finally:
            sys.path.remove(folder)
            for name, value in before.items():
                os.environ.pop(name) if value is None else os.environ.update({name: value})


def unpack_missing(wheels: Path, target: Path) -> list[str]:
    """Unpack the wheels whose packages this Python has not, or in a version that another of the wheels refuses.

    What the machine has stays its own: a newer one in front of it might not suit what else is installed.

    Args:
        wheels: folder of them.
        target: folder to unpack to, for ``PYTHONPATH``.

    Returns:
        the names of what was unpacked.

    Raises:
        ValueError: a wheel is for another Python.
    """
    files = sorted(wheels.glob("*.whl"))
    wanted: dict[str, SpecifierSet] = {}
    for file in files:
        for name, versions in _requirements(file).items():
            wanted[name] = wanted.get(name, SpecifierSet()) & versions
    unpacked, ours = [], set(sys_tags())
    for file in files:
        name, _, _, tags = parse_wheel_filename(file.name)
        if not tags & ours:
            raise ValueError(
                f"{file.name} is not for Python {sys.version_info.major}.{sys.version_info.minor} of this machine; "
                "make it anew: GPU_SITE_PYTHON=<this version> make gpu-site"
            )
        if not _installed(name, wanted.get(name, SpecifierSet())):
            with zipfile.ZipFile(file) as wheel:
                wheel.extractall(target)
            unpacked.append(str(name))
    return unpacked


def _requirements(file: Path) -> dict[str, SpecifierSet]:
    with zipfile.ZipFile(file) as wheel:
        entry = next(name for name in wheel.namelist() if name.endswith(".dist-info/METADATA"))
        metadata = Parser().parsestr(wheel.read(entry).decode(), headersonly=True)
    lines = (Requirement(line) for line in metadata.get_all("Requires-Dist", []))
    return {
        canonicalize_name(line.name): line.specifier
        for line in lines
        if line.marker is None or line.marker.evaluate({"extra": ""})
    }


def _installed(name: str, versions: SpecifierSet) -> bool:
    try:
        return versions.contains(importlib.metadata.version(name), prereleases=True)
    except importlib.metadata.PackageNotFoundError:
        return False
