"""Compiles drivers, programs that run device code on the host (see simt.h), and runs them on arrays of numpy."""

import fcntl
import hashlib
import math
import os
import shutil
import struct
import subprocess
import uuid
from functools import cache
from pathlib import Path

import numpy as np

HERE = Path(__file__).resolve().parent
REPO_ROOT = HERE.parents[1]
CACHE = REPO_ROOT / "build" / "simt"

# What shared memory and outputs hold before they are written: NaN in every type, and a number near 0.01. Results that
# differ between the two depend on memory that nobody wrote.
PATTERNS = (0xFFF5A5A5, 0x3C5A5A5A)

# Exit statuses, of the shim and of TSan.
ERROR = 86
RACE = 66

# nvcc knows `#pragma unroll`, g++ does not, nor does it see that the first columns of a box are always set.
_FLAGS = ["-std=c++20", "-g1", "-Wall", "-Wextra", "-Werror", "-Wno-unknown-pragmas", "-Wno-maybe-uninitialized"]
_FLAGS += ["-ffp-contract=off", f"-I{HERE}"]
_MODES = {
    "O2": ["-O2"],
    "asan": ["-O1", "-fno-omit-frame-pointer", "-fsanitize=address,undefined", "-fno-sanitize-recover=all"],
    "tsan": ["-O1", "-fsanitize=thread"],
}
_SHIM_MODES = {"O2": ["-O2"], "asan": ["-O2", "-DSIMT_ASAN"], "tsan": ["-O2", "-DSIMT_TSAN"]}


def compile_driver(source: Path, mode: str, csrc: Path = REPO_ROOT / "csrc") -> Path:
    """Executable of `source` for mode "O2", "asan" (with UBSan) or "tsan"; the one in the cache if nothing changed."""
    shim = _compile(HERE / "simt.cpp", f"simt-{mode}", ["-c", *_SHIM_MODES[mode]], [HERE / "simt.h"])
    headers = sorted([*HERE.glob("*.h"), *csrc.glob("*.h"), *csrc.rglob("*.cuh")])
    flags = [*_MODES[mode], f"-I{csrc}", f"-I{csrc / 'cuda'}", str(shim)]
    return _compile(source, f"{source.stem}-{mode}", flags, headers)


def run_driver(
    executable: Path,
    *args: object,
    seed: int = 0,
    pattern: int = PATTERNS[0],
    expect: int = 0,
    timeout_seconds: float = 120,
) -> subprocess.CompletedProcess[str]:
    """Runs a driver; AssertionError with what it said if its exit status is not `expect`."""
    environment = {
        **os.environ,
        "SIMT_SEED": str(seed),
        "SIMT_PATTERN": hex(pattern),
        "ASAN_OPTIONS": "detect_leaks=0",
        "TSAN_OPTIONS": f"halt_on_error=1:exitcode={RACE}:atexit_sleep_ms=0",
    }
    command = [*_fixed_addresses(), str(executable), *map(str, args)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=timeout_seconds)
    if done.returncode != expect:
        said = f"{done.stdout[-1000:]}\n{done.stderr[-4000:]}"
        raise AssertionError(f"{' '.join(command)} (seed {seed}) exited with {done.returncode}, not {expect}:\n{said}")
    return done


def write_arrays(path: Path, **arrays: np.ndarray) -> None:
    """Arrays for `simt::Arrays`; bfloat16 goes as its bits, in uint16."""
    with path.open("wb") as file:
        for name, array in arrays.items():
            code = "q" if array.dtype == np.int64 else array.dtype.char
            file.write(struct.pack("=I", len(name)) + name.encode() + code.encode())
            file.write(struct.pack(f"=I{array.ndim}q", array.ndim, *array.shape) + array.tobytes())


def read_arrays(path: Path) -> dict[str, np.ndarray]:
    """The arrays that a driver wrote."""
    data, at, arrays = path.read_bytes(), 0, {}
    while at < len(data):
        (name_size,) = struct.unpack_from("=I", data, at)
        name, code = data[at + 4 : at + 4 + name_size].decode(), chr(data[at + 4 + name_size])
        at += 5 + name_size
        (ndim,) = struct.unpack_from("=I", data, at)
        shape = struct.unpack_from(f"={ndim}q", data, at + 4)
        at += 4 + 8 * ndim
        arrays[name] = np.frombuffer(data, code, math.prod(shape), at).reshape(shape)
        at += arrays[name].nbytes
    return arrays


def _compile(source: Path, name: str, flags: list[str], dependencies: list[Path]) -> Path:
    command = [os.environ.get("CXX", "c++"), *_FLAGS, str(source), *flags]
    digest = hashlib.sha256("\0".join(command).encode())
    for path in [source, *dependencies]:
        digest.update(b"\0" + path.read_bytes())
    output = CACHE / f"{name}-{digest.hexdigest()[:16]}{'.o' if '-c' in flags else ''}"
    CACHE.mkdir(parents=True, exist_ok=True)
    with (CACHE / f"{output.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # another process may build the same file
        if not output.exists():
            unfinished = CACHE / f"{uuid.uuid4().hex}.tmp"
            done = subprocess.run([*command, "-o", str(unfinished)], capture_output=True, text=True)
            if done.returncode != 0:
                raise RuntimeError(f"{' '.join(command)} failed:\n{done.stderr}")
            unfinished.replace(output)
    return output


# Where a kernel randomizes many bits of addresses, TSan finds its own taken: "unexpected memory mapping".
@cache
def _fixed_addresses() -> list[str]:
    command = ["setarch", "-R"]
    works = shutil.which("setarch") and subprocess.run([*command, "true"], capture_output=True).returncode == 0
    return command if works else []
