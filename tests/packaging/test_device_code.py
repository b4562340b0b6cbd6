"""Device code compiles without a warning for the newest and the oldest GPU, and stays within what their cores hold."""

import importlib.util
import re
import shutil
import subprocess
from pathlib import Path
from types import ModuleType

import pytest
import torch
from nvrtc import CompileError, compile_sm70, resource_usage

from stoa.ops import build_info

MAX_REGISTERS, MAX_STATIC_SHARED = 128, 48 * 1024
NUM_KERNELS = 75


def toolkit(repo_root: Path) -> Path:
    """The CUDA toolkit that setup.py would take."""
    nvcc = shutil.which("nvcc")
    if nvcc is None:
        pytest.skip("there is no nvcc")
    return Path(nvcc)


def assert_fits(log: str) -> None:
    """``log`` is that of ptxas -v."""
    usage = resource_usage(log)
    assert len(usage) == NUM_KERNELS
    for kernel, used in usage.items():
        assert used.spill_bytes == 0, (kernel, used)
        assert used.registers <= MAX_REGISTERS, (kernel, used)
        assert used.static_shared_bytes <= MAX_STATIC_SHARED, (kernel, used)


@pytest.mark.slow
def test_sm_90(repo_root: Path, tmp_path: Path) -> None:
    command = [toolkit(repo_root), "-std=c++20", "-O3", "-arch=sm_90", "--Werror", "all-warnings", "-Xptxas", "-v"]
    source = repo_root / "tests" / "packaging" / "kernels.cu"
    command += ["-I", repo_root / "csrc" / "cuda", "-cubin", "-o", tmp_path / "kernels.cubin", source]
    answer = subprocess.run(command, capture_output=True, text=True)
    assert answer.returncode == 0, answer.stderr
    assert_fits(answer.stderr)


@pytest.mark.slow
def test_sm_70(repo_root: Path) -> None:
    kernels = (repo_root / "tests" / "packaging" / "kernels.cu").read_text()
    cubin, log = compile_sm70(kernels, [repo_root / "csrc" / "cuda"])
    assert cubin.startswith(b"\x7fELF")
    assert_fits(log)


def test_sm_70_refuses_what_came_later() -> None:
    source = "__global__ void kernel(unsigned* out) { *out = __reduce_add_sync(0xffffffffu, *out); }"
    with pytest.raises(CompileError, match="__reduce_add_sync"):
        compile_sm70(source, [])


def test_the_figures_are_those_of_the_kernel() -> None:
    source = "__global__ void kernel(float* out, int i) { __shared__ float a[100]; a[i] = i; *out = a[i + 1]; }"
    (used,) = resource_usage(compile_sm70(source, [])[1]).values()
    assert used.static_shared_bytes == 400
    assert used.spill_bytes == 0


def test_a_compiler_of_torchs_cuda_is_used(repo_root: Path) -> None:
    """Where it could have been, the extension was compiled for GPUs."""
    version = subprocess.run([toolkit(repo_root), "--version"], capture_output=True, text=True, check=True).stdout
    release = re.search(r"release (\d+)\.", version)
    assert release is not None
    if torch.version.cuda is None or release.group(1) != torch.version.cuda.split(".")[0]:
        pytest.skip(f"nvcc {release.group(1)} is not of torch's CUDA {torch.version.cuda}")
    assert build_info()["cuda_toolkit"] is not None


@pytest.fixture
def setup_module(repo_root: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """setup.py without its last line, which builds."""
    source = (repo_root / "setup.py").read_text()
    spec = importlib.util.spec_from_loader("stoa_setup", loader=None)
    assert spec is not None
    module = importlib.util.module_from_spec(spec)
    module.__file__ = str(repo_root / "setup.py")
    monkeypatch.syspath_prepend(str(repo_root / "build_backend"))
    exec(compile(source.replace("\nsetup(**setup_arguments())\n", "\n"), "setup.py", "exec"), module.__dict__)
    return module


@pytest.mark.parametrize(
    ("codes", "expected"),
    [
        ("sm_50 sm_60 sm_70 sm_75 sm_80 sm_86 sm_89 sm_90", "7.0;7.5;8.0;9.0+PTX"),  # CUDA 12
        ("sm_75 sm_80 sm_86 sm_90 sm_100 sm_120", "7.5;8.0;9.0+PTX"),  # CUDA 13
        ("sm_70 sm_75", "7.0;7.5+PTX"),
    ],
)
def test_default_architectures(setup_module: ModuleType, tmp_path: Path, codes: str, expected: str) -> None:
    nvcc = tmp_path / "bin" / "nvcc"
    nvcc.parent.mkdir()
    nvcc.write_text(f"#!/bin/sh\nprintf '%s\\n' {codes}\n")
    nvcc.chmod(0o755)
    assert setup_module.default_architectures(tmp_path) == expected


def test_a_toolkit_for_other_gpus_is_an_error(setup_module: ModuleType, tmp_path: Path) -> None:
    nvcc = tmp_path / "bin" / "nvcc"
    nvcc.parent.mkdir()
    nvcc.write_text("#!/bin/sh\necho sm_20\n")
    nvcc.chmod(0o755)
    with pytest.raises(RuntimeError, match="set TORCH_CUDA_ARCH_LIST"):
        setup_module.default_architectures(tmp_path)
