"""PEP 517 build backend: setuptools, and a torch to compile against.

pip builds in isolation, in an environment that hides what is installed. Two cases follow.

* torch is installed where the wheel will go: `expose_installed_packages` makes it visible to the build, so that the
  extension is compiled against the torch it will run with.
* No torch is installed: the build asks for exactly one version, which the wheel then requires (see setup.py). It is
  the version that `constraints/` pins, or STOA_TORCH_VERSION where that is set.
"""

import importlib.util
import os
import re
import shlex
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path
from typing import Any

from setuptools import build_meta

build_sdist = build_meta.build_sdist
build_editable = build_meta.build_editable
prepare_metadata_for_build_wheel = build_meta.prepare_metadata_for_build_wheel
prepare_metadata_for_build_editable = build_meta.prepare_metadata_for_build_editable

ROOT = Path(__file__).resolve().parent.parent
CONSTRAINTS = ROOT / "constraints" / "linux-cu13.txt"


def build_wheel(*arguments: Any, **options: Any) -> str:
    """A wheel of what is there now: setuptools packs whatever an earlier build has left."""
    for left in ROOT.glob("build/lib*"):
        shutil.rmtree(left)
    return build_meta.build_wheel(*arguments, **options)


def get_requires_for_build_sdist(config_settings: dict[str, Any] | None = None) -> list[str]:
    """A source distribution holds no compiled code and needs nothing more."""
    return []


def get_requires_for_build_wheel(config_settings: dict[str, Any] | None = None) -> list[str]:
    """The torch to compile against, where none is installed and the extension can be compiled at all."""
    expose_installed_packages()
    if importlib.util.find_spec("torch") is not None or reason_not_to_compile() is not None:
        return []
    return [f"torch=={default_torch_version()}", "numpy"]


get_requires_for_build_editable = get_requires_for_build_wheel


def expose_installed_packages() -> None:
    """Append to `sys.path` what the interpreter sees outside of pip's isolated build, after the build's own packages.

    The isolation works through PYTHONPATH, so the same interpreter started without it tells the truth.
    """
    environment = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "PYTHONNOUSERSITE")}
    command = [sys.executable, "-c", "import sys; print('\\n'.join(sys.path[1:]))"]
    found = subprocess.run(command, env=environment, check=True, capture_output=True, text=True).stdout.splitlines()
    sys.path.extend(path for path in found if path not in sys.path)


def reason_not_to_compile() -> str | None:
    """Why the extension is not compiled, or None where it can be."""
    if os.environ.get("STOA_NO_EXT") == "1":
        return "STOA_NO_EXT=1 is set"
    compiler = shlex.split(os.environ.get("CXX", "c++"))[0]
    if shutil.which(compiler) is None:
        return f"there is no C++ compiler ({compiler} not found; install g++ or set CXX)"
    if not Path(sysconfig.get_path("include"), "Python.h").is_file():
        return "the Python headers are missing (install python3-dev)"
    return None


def default_torch_version() -> str:
    """The version to build with where no torch is installed: STOA_TORCH_VERSION, else the pinned one."""
    chosen = os.environ.get("STOA_TORCH_VERSION")
    if chosen:
        return chosen
    pin = re.search(r"^torch==(\S+)$", CONSTRAINTS.read_text(), re.MULTILINE)
    if pin is None:
        raise RuntimeError(f"{CONSTRAINTS.name} pins no torch: add a line torch==X.Y.Z or set STOA_TORCH_VERSION")
    return pin.group(1)
