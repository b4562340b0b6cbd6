"""Installing: where torch comes from, what happens without a compiler, what is imported."""

import fnmatch
import importlib.metadata
import importlib.util
import os
import re
import shutil
import subprocess
import sys
import tarfile
import venv
import zipfile
from pathlib import Path
from types import ModuleType

import pytest
import torch

from stoa.ops import build_info

CONSTRAINTS = "constraints/linux-cu13.txt"
ANYWHERE, AT_THE_ROOT = (".*", "*.so", "*.egg-info", "__pycache__"), ("build", "dist", "data", "runs", "logs")
USE_REFERENCE = """
import importlib.util, sys, warnings
# An editable stoa in this environment would fill in the module that is missing.
sys.meta_path = [finder for finder in sys.meta_path if "editable" not in getattr(finder, "__module__", "")]
assert importlib.util.find_spec("stoa._C") is None
import torch
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    from stoa.ops import batched_assignment, build_info
    batched_assignment(torch.zeros(1, 2, 2))
    match, _ = batched_assignment(torch.tensor([[[1.0, 0.0], [0.0, 1.0]]]))
assert match.tolist() == [[1, 0]]
assert build_info() == {"compiled": False}
from stoa.shipped import found
print(found("recipes/stoa.yaml"))
print(*(str(w.message) for w in caught if "stoa" in str(w.message)), sep="\\n")
"""
USE_EXTENSION = """
import json, torch, stoa.ops
match, _ = stoa.ops.batched_assignment(torch.tensor([[[1.0, 0.0], [0.0, 1.0]]]))
assert match.tolist() == [[1, 0]]
info = stoa.ops.build_info()
assert info["compiled"] and info["torch"] == torch.__version__, (info, torch.__version__)
forward = {"stoa::batched_assignment", "stoa::quick_gelu", "stoa::roi_align_max", "stoa::trajectory_attention"}
assert set(info["operators"]) == forward | {f"{name}_backward" for name in forward - {"stoa::batched_assignment"}}, info
assert info["cpp_standard"] >= 202002, info
assert (info["cuda_toolkit"] is None) == (not info["cuda_architectures"]), info
print(info["torch"])
"""


def sources(root: Path, target: Path) -> Path:
    """A copy of them."""

    def left_out(folder: str, names: list[str]) -> set[str]:
        patterns = (*ANYWHERE, *(AT_THE_ROOT if Path(folder) == root else ()))
        return {name for name in names if any(fnmatch.fnmatch(name, pattern) for pattern in patterns)}

    return Path(shutil.copytree(root, target, ignore=left_out))


@pytest.fixture
def checkout(repo_root: Path, tmp_path: Path) -> Path:
    """A copy of the sources: an installation in place would leave build products in the checkout."""
    return sources(repo_root, tmp_path / "checkout")


@pytest.fixture
def backend(repo_root: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location("stoa_build", repo_root / "build_backend" / "stoa_build.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def run(*command: str | Path, cwd: Path, **environment: str) -> str:
    """Output of a command that must succeed, in an environment without the settings of this test run."""
    inherited = {k: v for k, v in os.environ.items() if not k.startswith("STOA_") and k not in ("PYTHONPATH", "CXX")}
    result = subprocess.run(
        [str(part) for part in command],
        cwd=cwd,
        env=inherited | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert result.returncode == 0, result.stdout
    return result.stdout


def test_importing_stoa_loads_no_torch(repo_root: Path) -> None:
    run(sys.executable, "-c", "import stoa, sys; assert 'torch' not in sys.modules", cwd=repo_root)


@pytest.mark.skipif(not build_info()["compiled"], reason="the extension is not built")
def test_the_installed_package_requires_the_torch_it_was_built_with() -> None:
    public_version = torch.__version__.split("+")[0]
    assert build_info()["torch"] == torch.__version__
    assert f"torch=={public_version}" in (importlib.metadata.requires("stoa") or [])


def test_a_wheel_of_pure_python_has_all_that_commands_take_and_warns_once(
    checkout: Path, repo_root: Path, tmp_path: Path
) -> None:
    command = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "-w", tmp_path, checkout]
    run(*command, cwd=tmp_path, STOA_NO_EXT="1")
    target = tmp_path / "target"
    with zipfile.ZipFile(next(tmp_path.glob("stoa-*.whl"))) as wheel:
        wheel.extractall(target)
    requirements = next(target.glob("stoa-*.dist-info/METADATA")).read_text()
    assert "Requires-Dist: torch>=" in requirements
    for name in ("recipes", "ds_configs"):
        shipped = {path.relative_to(repo_root / name) for path in (repo_root / name).rglob("*") if path.is_file()}
        there = {path.relative_to(target / "stoa" / name) for path in (target / "stoa" / name).rglob("*.*")}
        assert there == shipped and shipped
    output = run(sys.executable, "-c", USE_REFERENCE, cwd=tmp_path, PYTHONPATH=str(target)).splitlines()
    assert output[:-1] == [str(target / "stoa" / "recipes" / "stoa.yaml")]
    assert "no C++ compiler, or STOA_NO_EXT=1" in output[-1]


def test_a_source_distribution_has_what_a_wheel_is_built_of(checkout: Path, tmp_path: Path) -> None:
    """As ``python -m build`` makes it, which builds the wheel of its content alone."""
    run(sys.executable, "setup.py", "--quiet", "sdist", "--dist-dir", tmp_path, cwd=checkout, STOA_NO_EXT="1")
    with tarfile.open(next(tmp_path.glob("stoa-*.tar.gz"))) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    wanted = ["csrc", "constraints", "recipes", "ds_configs", "build_backend", "stoa"]
    sources = [path for folder in wanted for path in (checkout / folder).rglob("*") if path.is_file()]
    sources = [path for path in sources if path.parent.name != "__pycache__"]
    assert {str(path.relative_to(checkout)) for path in sources} <= names
    assert {"setup.py", "pyproject.toml", "train.py", "README.md", "LICENSE"} <= names


def test_a_missing_compiler_is_said_loudly(checkout: Path) -> None:
    command = [sys.executable, "setup.py", "--quiet", "build"]
    output = run(*command, cwd=checkout, CXX="no-such-c++")
    assert "*" * 100 in output
    assert "stoa: NOT COMPILED: there is no C++ compiler (no-such-c++ not found; install g++ or set CXX)" in output
    assert (
        "left out: the C++ and CUDA operators roi_align_max, trajectory_attention, batched_assignment and quick_gelu"
        in output
    )
    with pytest.raises(AssertionError, match="STOA_FORCE_EXT=1 is set, but there is no C\\+\\+ compiler"):
        run(*command, cwd=checkout, CXX="no-such-c++", STOA_FORCE_EXT="1")


@pytest.mark.slow
def test_a_failing_compiler_is_an_error_only_when_forced(checkout: Path) -> None:
    command = [sys.executable, "setup.py", "--quiet", "build"]
    assert "NOT COMPILED: compiling failed" in run(*command, cwd=checkout, CXX="false")
    with pytest.raises(AssertionError, match="Error"):
        run(*command, cwd=checkout, CXX="false", STOA_FORCE_EXT="1")


def test_build_asks_for_the_pinned_torch_only_where_none_is_installed(
    backend: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert backend.get_requires_for_build_wheel() == []
    monkeypatch.setattr(backend.importlib.util, "find_spec", lambda name: None)
    pinned = re.search(r"^torch==(\S+)$", backend.CONSTRAINTS.read_text(), re.MULTILINE)
    assert pinned is not None
    assert backend.get_requires_for_build_wheel()[0] == f"torch=={pinned.group(1)}"
    monkeypatch.setenv("STOA_TORCH_VERSION", "2.10.0")
    assert backend.get_requires_for_build_editable()[0] == "torch==2.10.0"
    monkeypatch.setenv("STOA_NO_EXT", "1")
    assert backend.get_requires_for_build_wheel() == []


@pytest.mark.slow
@pytest.mark.timeout(2400)
@pytest.mark.parametrize("torch_is_installed", [False, True])
def test_fresh_environment(checkout: Path, tmp_path: Path, torch_is_installed: bool) -> None:
    """pip's isolated build, once without and once with a torch where the package goes."""
    environment = tmp_path / "environment"
    venv.create(environment, with_pip=True)
    python = environment / "bin" / "python"
    pip = [python, "-m", "pip", "install", "--no-cache-dir", "-c", CONSTRAINTS]
    try:
        if torch_is_installed:
            run(*pip, "torch", "numpy", cwd=checkout)
            log = run(*pip, "-v", "--no-deps", ".", cwd=checkout, STOA_FORCE_EXT="1")
            built_with = re.search(r"stoa: torch \S+ in (\S+)", log)
            assert built_with is not None and Path(built_with.group(1)).is_relative_to(environment), log
        else:
            run(*pip, ".", cwd=checkout, STOA_FORCE_EXT="1")
        pinned = re.search(r"^torch==(\S+)$", (checkout / CONSTRAINTS).read_text(), re.MULTILINE)
        output = run(python, "-W", "error::RuntimeWarning", "-c", USE_EXTENSION, cwd=tmp_path).strip()
        assert pinned is not None and output.split("+")[0] == pinned.group(1)
    finally:
        # Several gigabytes each.
        shutil.rmtree(environment)
