"""Builds csrc/ into stoa._C. Metadata and tool configuration are in pyproject.toml.

    pip install .                      compiles against the torch that is installed, or the pinned one where none is
    STOA_NO_EXT=1 pip install .        pure Python: the PyTorch references of stoa.ops run instead
    STOA_FORCE_EXT=1 pip install .     a build without the compiled operators is an error

CXX, MAX_JOBS, CUDA_HOME and TORCH_CUDA_ARCH_LIST are honoured. The resolved build is printed; pip shows it with -v.

C++ of one torch does not load into another, so a wheel with compiled operators requires the exact torch it was built
against. That is why the dependencies are here and not in pyproject.toml.
"""

import importlib.util
import os
import platform
import re
import shutil
import subprocess
import sys
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py

ROOT = Path(__file__).resolve().parent
sys.path.insert(0, str(ROOT / "build_backend"))
from stoa_build import expose_installed_packages, reason_not_to_compile  # noqa: E402

DEPENDENCIES = [
    "torchvision>=0.25",
    "numpy>=1.26",
    "deepspeed>=0.18",
    "open_clip_torch>=3.0",
    "tqdm",
    "av>=17",
    "decord>=0.6; platform_machine == 'x86_64' and sys_platform == 'linux'",
    "docstring-parser>=0.15",  # of which the options of commands have their help
    "fsspec",
    "ftfy",
    "jsonargparse>=4.49",
    "matplotlib>=3.8",
    "pillow>=10",
    "pyyaml>=6",
    "regex",
    "safetensors>=0.4",
    "tensorboard>=2.14",
]
ANY_TORCH = "torch>=2.10"
# Every torch since 2.10 compiles as C++20, the newer ones as nothing older.
CXX_FLAGS = ["-std=c++20", "-O3", "-Wall", "-Wextra", "-Wno-unused-parameter"]
# From V100 to H200. Code for one runs on all later ones of its generation; "+PTX" serves what comes after.
CUDA_ARCHITECTURES = ("7.0", "7.5", "8.0", "9.0")
# Folders that stand beside the package in a checkout and inside it once it is installed; stoa/shipped.py finds them.
SHIPPED = ("recipes", "ds_configs")
GIB_PER_CXX_JOB = 2
GIB_PER_CUDA_JOB = 5


class BuildPackage(build_py):
    """The package, with the recipes and DeepSpeed configurations that its commands take."""

    def run(self) -> None:
        super().run()
        if not self.editable_mode:
            for name in SHIPPED:
                target = Path(self.build_lib) / "stoa" / name
                shutil.rmtree(target, ignore_errors=True)
                shutil.copytree(ROOT / name, target)


def say_uncompiled(reason: str) -> None:
    """A banner: among the lines of a build one more would be lost. pip shows it with -v."""
    lines = [
        f"NOT COMPILED: {reason}",
        "left out: the C++ and CUDA operators roi_align_max, trajectory_attention, batched_assignment and quick_gelu",
        "in their place the PyTorch references run: the same results, slower (docs/performance.md)",
        "to have them: mend that and install again; STOA_FORCE_EXT=1 makes it an error",
    ]
    rule = "*" * 100
    print("\n".join([rule, *(f"stoa: {line}" for line in lines), rule]), file=sys.stderr, flush=True)


def sources(pattern: str) -> list[str]:
    """Files of csrc/ relative to the root, in a fixed order."""
    return sorted(str(path.relative_to(ROOT)) for path in (ROOT / "csrc").glob(pattern))


def find_cuda_toolkit() -> Path | None:
    """The folder with bin/nvcc and include/; the nvcc on PATH may be a wrapper that stands elsewhere."""
    nvcc = shutil.which("nvcc")
    candidates = [os.environ.get("CUDA_HOME"), os.environ.get("CUDA_PATH")]
    candidates += [str(Path(nvcc).resolve().parent.parent)] if nvcc else []
    candidates += ["/usr/local/cuda"]
    for candidate in filter(None, candidates):
        root = Path(candidate)
        if (root / "bin" / "nvcc").is_file() and (root / "include" / "cuda_runtime.h").is_file():
            return root
    return None


def toolkit_version(toolkit: Path) -> str:
    """Release of a CUDA toolkit, as in 13.0."""
    answer = subprocess.run([toolkit / "bin" / "nvcc", "--version"], check=True, capture_output=True, text=True).stdout
    release = re.search(r"release (\d+\.\d+)", answer)
    if release is None:
        raise RuntimeError(f"{toolkit}/bin/nvcc --version tells no release: set CUDA_HOME to another toolkit")
    return release.group(1)


def default_architectures(toolkit: Path) -> str:
    """Those of CUDA_ARCHITECTURES that the toolkit still compiles for."""
    nvcc = [toolkit / "bin" / "nvcc", "--list-gpu-code"]
    codes = subprocess.run(nvcc, check=True, capture_output=True, text=True).stdout.split()
    supported = [architecture for architecture in CUDA_ARCHITECTURES if f"sm_{architecture.replace('.', '')}" in codes]
    if not supported:
        raise RuntimeError(f"{toolkit} compiles for none of {CUDA_ARCHITECTURES}: set TORCH_CUDA_ARCH_LIST")
    return ";".join(supported) + "+PTX"


def visible_architectures() -> str:
    """Of the GPUs of this machine, empty without one."""
    import torch

    found = {torch.cuda.get_device_capability(index) for index in range(torch.cuda.device_count())}
    return ";".join(f"{major}.{minor}" for major, minor in sorted(found))


def available_gib() -> float:
    """Memory that a build may take, without pushing others out."""
    meminfo = Path("/proc/meminfo")
    if meminfo.is_file():
        for line in meminfo.read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) / 2**20
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30


def limit_jobs(gib_per_job: int) -> None:
    """Set MAX_JOBS, which torch hands to ninja, by cores and memory unless the user has."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    os.environ.setdefault("MAX_JOBS", str(max(1, min(cores, int(available_gib() / gib_per_job)))))


def resolve_cuda(cuda_sources: list[str], torch_version: str, torch_cuda: str | None) -> tuple[str | None, str]:
    """The toolkit's release if CUDA sources are compiled, else None; and the reason, for a person."""
    if not cuda_sources:
        return None, "no: csrc/cuda holds no source"
    if torch_cuda is None:
        return None, f"no: torch {torch_version} is built without CUDA"
    toolkit = find_cuda_toolkit()
    if toolkit is None:
        return None, "no: no toolkit with bin/nvcc and include/cuda_runtime.h found; set CUDA_HOME"
    release = toolkit_version(toolkit)
    if release.split(".")[0] != torch_cuda.split(".")[0]:
        return None, f"no: {toolkit} is {release}, torch {torch_version} is built with {torch_cuda}; set CUDA_HOME"
    # torch reads it when torch.utils.cpp_extension is imported.
    os.environ["CUDA_HOME"] = str(toolkit)
    if "TORCH_CUDA_ARCH_LIST" not in os.environ:
        os.environ["TORCH_CUDA_ARCH_LIST"] = visible_architectures() or default_architectures(toolkit)
    return release, f"yes: {toolkit}, {release}"


def extension_arguments() -> dict[str, object]:
    """Arguments of setup() that build stoa._C; prints what was resolved."""
    import torch

    cuda_sources = sources("cuda/*.cu")
    cuda_release, cuda_reason = resolve_cuda(cuda_sources, torch.__version__, torch.version.cuda)

    from torch.utils import cpp_extension

    flags = list(CXX_FLAGS)
    if platform.system() == "Linux" and "OpenMP" in torch.__config__.parallel_info():
        # at::parallel_for is inlined here and is serial without it. It is not a link flag: the symbols then resolve to
        # the one OpenMP runtime that torch has loaded.
        flags.append("-fopenmp")
    macros = [("STOA_TORCH_VERSION", f'"{torch.__version__}"'), ("STOA_CXX_FLAGS", f'"{" ".join(flags)}"')]
    if cuda_release is None:
        extension_type, files = cpp_extension.CppExtension, sources("*.cpp") + sources("cpu/*.cpp")
    else:
        extension_type, files = cpp_extension.CUDAExtension, sources("*.cpp") + sources("cpu/*.cpp") + cuda_sources
        architectures = os.environ["TORCH_CUDA_ARCH_LIST"]
        macros += [("STOA_CUDA_TOOLKIT", f'"{cuda_release}"'), ("STOA_CUDA_ARCHITECTURES", f'"{architectures}"')]
        cuda_reason += f", architectures {architectures}"
    limit_jobs(GIB_PER_CXX_JOB if cuda_release is None else GIB_PER_CUDA_JOB)

    print(f"stoa: torch {torch.__version__} in {Path(torch.__file__).parent}")
    print(f"stoa: compiler {os.environ.get('CXX', 'c++')}, flags {' '.join(flags)}")
    print(f"stoa: ninja {'yes' if cpp_extension.is_ninja_available() else 'no'}, MAX_JOBS {os.environ['MAX_JOBS']}")
    print(f"stoa: CUDA {cuda_reason}")

    class BuildOperators(cpp_extension.BuildExtension):
        """Falls back to pure Python where compiling fails, unless the compiled operators are asked for."""

        def build_extensions(self) -> None:
            try:
                super().build_extensions()
            except Exception as error:
                if os.environ.get("STOA_FORCE_EXT") == "1":
                    raise
                say_uncompiled(f"compiling failed ({error})")
                self.extensions = []

    extension = extension_type(
        "stoa._C",
        sources=files,
        depends=sources("**/*.h") + sources("**/*.cuh"),
        define_macros=macros,
        extra_compile_args={"cxx": flags, "nvcc": ["-O3", "-std=c++20"]},
    )
    # A local label such as +cu132 names a build of the same version; a requirement without it matches all of them.
    public_version = torch.__version__.split("+")[0]
    return {
        "install_requires": [f"torch=={public_version}", *DEPENDENCIES],
        "ext_modules": [extension],
        "cmdclass": {"build_ext": BuildOperators, "build_py": BuildPackage},
    }


def setup_arguments() -> dict[str, object]:
    """Arguments of setup(): with the extension where it can be compiled, else pure Python."""
    reason = reason_not_to_compile()
    if reason is None:
        expose_installed_packages()
        if importlib.util.find_spec("torch") is None:
            reason = "there is no torch to compile against"
    if reason is None:
        return extension_arguments()
    if os.environ.get("STOA_FORCE_EXT") == "1":
        raise SystemExit(f"stoa: STOA_FORCE_EXT=1 is set, but {reason}")
    say_uncompiled(reason)
    return {"install_requires": [ANY_TORCH, *DEPENDENCIES], "cmdclass": {"build_py": BuildPackage}}


setup(**setup_arguments())
