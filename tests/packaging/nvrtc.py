"""Compiles device code for sm_70 (V100) with the NVRTC of CUDA 12, and tells what each kernel uses.

    python nvrtc_sm70.py SOURCE INCLUDE_DIR...

CUDA 13 cannot target sm_70. The wheels nvidia-cuda-nvrtc-cu12 and nvidia-cuda-runtime-cu12 bring compiler and headers;
they need neither a GPU nor nvcc, and lie beside the CUDA 13 wheels of torch.
"""

import ctypes
import re
import sys
import sysconfig
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

OPTIONS = [
    "--gpu-architecture=sm_70",
    "-std=c++20",
    # Host functions of the headers: launch shapes. NVRTC compiles no host code.
    "-default-device",
    "--ptxas-options=-v",
]


class CompileError(RuntimeError):
    """The source does not compile; the text is the compiler's."""


class Usage(NamedTuple):
    registers: int
    spill_bytes: int  # stored and loaded
    static_shared_bytes: int


def wheel_folder(name: str) -> Path:
    """What a CUDA 12 wheel installed; those of CUDA 13 use nvidia/cu13 instead."""
    folder = Path(sysconfig.get_path("purelib"), "nvidia", name)
    if not folder.is_dir():
        raise FileNotFoundError(f"no {folder}: pip install nvidia-{name.replace('_', '-')}-cu12")
    return folder


def compile_sm70(source: str, include_dirs: Sequence[str | Path]) -> tuple[bytes, str]:
    """The cubin, and the compiler's log."""
    nvrtc = ctypes.CDLL(str(wheel_folder("cuda_nvrtc") / "lib" / "libnvrtc.so.12"))
    folders = [*include_dirs, wheel_folder("cuda_runtime") / "include"]
    options = [text.encode() for text in [*OPTIONS, *(f"-I{folder}" for folder in folders)]]
    program = ctypes.c_void_p()
    status = nvrtc.nvrtcCreateProgram(ctypes.byref(program), source.encode(), b"kernels.cu", 0, None, None)
    if status != 0:
        raise RuntimeError(f"nvrtcCreateProgram: error {status}")
    try:
        status = nvrtc.nvrtcCompileProgram(program, len(options), (ctypes.c_char_p * len(options))(*options))
        log = read(nvrtc, program, "ProgramLog").rstrip(b"\0").decode()
        if status != 0:
            raise CompileError(f"NVRTC error {status}\n{log}")
        return read(nvrtc, program, "CUBIN"), log
    finally:
        nvrtc.nvrtcDestroyProgram(ctypes.byref(program))


def read(nvrtc: ctypes.CDLL, program: ctypes.c_void_p, what: str) -> bytes:
    size = ctypes.c_size_t()
    if getattr(nvrtc, f"nvrtcGet{what}Size")(program, ctypes.byref(size)) != 0:
        raise RuntimeError(f"nvrtcGet{what}Size failed")
    buffer = ctypes.create_string_buffer(size.value)
    if getattr(nvrtc, f"nvrtcGet{what}")(program, buffer) != 0:
        raise RuntimeError(f"nvrtcGet{what} failed")
    return buffer.raw


def resource_usage(log: str) -> dict[str, Usage]:
    """Mangled kernel to what ptxas says of it. A cubin alone does not tell spills from arrays on the stack."""
    found = {}
    for entry in log.split("Compiling entry function ")[1:]:
        name = entry.split("'")[1]
        properties = entry[entry.index(f"Function properties for {name}\n") :]
        registers = re.search(r"Used (\d+) registers", properties)
        spill = re.search(r"(\d+) bytes spill stores, (\d+) bytes spill loads", properties)
        if registers is None or spill is None:
            raise ValueError(f"ptxas says too little of {name}:\n{entry}")
        shared = re.search(r"(\d+) bytes smem", properties)
        spilled = int(spill[1]) + int(spill[2])
        found[name] = Usage(int(registers[1]), spilled, int(shared[1]) if shared else 0)
    return found


def main() -> None:
    source, *include_dirs = sys.argv[1:]
    cubin, log = compile_sm70(Path(source).read_text(), include_dirs)
    usage = resource_usage(log)
    for kernel, used in sorted(usage.items()):
        print(*used, kernel)
    print(f"{len(usage)} kernels, {len(cubin)} bytes of cubin")


if __name__ == "__main__":
    main()
