"""The shim that runs device code on the host: planted faults are reported, each for its own reason."""

import re
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from simt_build import ERROR, HERE, PATTERNS, RACE, REPO_ROOT, compile_driver, read_arrays, run_driver, write_arrays

MODES = ("O2", "asan", "tsan")
CUDA_DIR = REPO_ROOT / "csrc" / "cuda"


@pytest.fixture(scope="module")
def litmus() -> dict[str, Path]:
    with ThreadPoolExecutor(2) as pool:
        return dict(zip(MODES, pool.map(lambda mode: compile_driver(HERE / "litmus.cpp", mode), MODES), strict=True))


@pytest.fixture(scope="module")
def right_results(litmus: dict[str, Path]) -> dict[str, str]:
    """What the repaired kernels print, by name."""
    lines = run_driver(litmus["O2"], "repaired").stdout.splitlines()
    return {line.split(" ", 1)[0]: line for line in lines}


@pytest.mark.parametrize("mode", MODES)
def test_correct_kernels_pass(litmus: dict[str, Path], right_results: dict[str, str], mode: str) -> None:
    for seed in range(3 if mode == "tsan" else 8):
        for pattern in PATTERNS[: 1 if mode == "tsan" else 2]:
            printed = run_driver(litmus[mode], "repaired", seed=seed, pattern=pattern).stdout
            assert printed.splitlines() == list(right_results.values())
            assert run_driver(litmus[mode], "ok_reduce", seed=seed, pattern=pattern).stdout == f"{640 * 639 // 2}\n"


def test_results_are_right(right_results: dict[str, str]) -> None:
    neighbours = [(i + 1) % 64 for i in range(64)] * 3
    halves = ([sum(range(16, 32))] * 16 + [sum(range(16))] * 16) * 6
    minima = [min((lane * 5 + 7) % 32 for lane in half) for half in (range(16), range(16, 32)) for _ in half] * 6
    for name, expected in (
        ("missing_barrier", neighbours),
        ("halves_of_a_warp", halves),
        ("exited_lane_of_minimum", minima),
    ):
        assert right_results[name] == " ".join([name, *map(str, expected)])


@pytest.mark.parametrize(
    "name",
    [
        "missing_barrier",
        "missing_second_barrier",
        "missing_global_barrier",
        "vote_is_no_barrier",
        "warp_barrier_for_block",
        "race_between_blocks",
    ],
)
def test_races_are_reported(litmus: dict[str, Path], name: str) -> None:
    for seed in range(2):
        stderr = run_driver(litmus["tsan"], name, seed=seed, expect=RACE).stderr
        assert re.search(rf"SUMMARY: ThreadSanitizer: data race .* in {name}$", stderr, re.MULTILINE)


@pytest.mark.parametrize("name", ["missing_barrier", "missing_global_barrier", "race_between_blocks"])
def test_order_of_threads_shows_in_results(litmus: dict[str, Path], right_results: dict[str, str], name: str) -> None:
    printed = [run_driver(litmus["O2"], name, seed=seed).stdout.strip() for seed in range(4)]
    assert len(set(printed)) > 1
    assert right_results[name] not in printed
    assert run_driver(litmus["O2"], name, seed=1).stdout.strip() == printed[1]


@pytest.mark.parametrize(
    ("name", "message"),
    [("one_past_the_end", "heap-buffer-overflow"), ("past_a_local_array", "stack-buffer-overflow")],
)
def test_overruns_are_reported(litmus: dict[str, Path], name: str, message: str) -> None:
    stderr = run_driver(litmus["asan"], name, expect=1).stderr
    assert re.search(rf"SUMMARY: AddressSanitizer: {message} .* in {name}", stderr)


def test_unset_shared_memory_shows_in_results(litmus: dict[str, Path], right_results: dict[str, str]) -> None:
    first, second = (run_driver(litmus["O2"], "unset_shared", pattern=pattern).stdout.split() for pattern in PATTERNS)
    right = right_results["unset_shared"].split()
    assert [i for i, (a, b) in enumerate(zip(first, second, strict=True)) if a != b] == [9, 73, 137]
    assert [i for i, (a, b) in enumerate(zip(first, right, strict=True)) if a != b] == [9, 73, 137]


ERRORS = {
    "different_sizes": "SharedMemory: array 0 has (32|36) bytes, (32|36) in other threads",
    "shared_too_small": "SharedMemory: array 1 needs 144 bytes, 128 are left",
    "divergent_barrier": r"__syncthreads: line \d+, others wait in line \d+",
    "exited_thread": r"__syncthreads: thread \(5,0,0\) has exited",
    "barrier_against_warp": "__syncwarp: lane 3 of the mask 0xffffffff waits elsewhere, in __syncthreads",
    "lane_outside_mask": r"__shfl_sync: lane 3 is outside of its own mask 0xfffffff7",
    "exited_lane_of_minimum": r"__reduce_min_sync: lane 20 of the mask 0xffff0000 has exited",
    "exited_lane": r"__shfl_xor_sync: lane 7 of the mask 0xffffffff has exited",
    "different_operations": "__any_sync: lane 16 of the mask 0xffffffff waits elsewhere, in __all_sync",
    "different_masks": "__ballot_sync: lane 1 of the mask 0x00000003 waits elsewhere, in __ballot_sync",
    "source_outside_mask": "__shfl_sync: lane 20 is not in the mask 0x0000ffff or in the block",
}


@pytest.mark.parametrize("name", ERRORS)
def test_errors_are_reported(litmus: dict[str, Path], name: str) -> None:
    for mode, seed in (("O2", 0), ("O2", 1), ("asan", 0), ("tsan", 0)):
        stderr = run_driver(litmus[mode], name, seed=seed, expect=ERROR).stderr
        (line,) = (line for line in stderr.splitlines() if "WARNING: ASan" not in line)
        assert re.fullmatch(rf"simt: block \([0-2],0,0\), thread \(\d+,0,0\), .*{ERRORS[name]}", line)


def test_no_litmus_is_left_out(right_results: dict[str, str]) -> None:
    tested = set(re.findall(r'"(\w+)"', Path(__file__).read_text()))
    assert set(right_results) <= tested


def test_half_precision(litmus: dict[str, Path], tmp_path: Path) -> None:
    halves = np.arange(1 << 16, dtype=np.uint16)
    random = np.random.default_rng(0).integers(0, 1 << 32, 1 << 16, dtype=np.uint32).view(np.float32)
    with np.errstate(invalid="ignore"):
        # Halfway between neighbours, where rounding is to even, and next to it.
        exact = halves.view(np.float16).astype(np.float32)
        halfway = ((exact[:-1].astype(np.float64) + exact[1:]) / 2).astype(np.float32)
    edges = np.concatenate([halfway, np.nextafter(halfway, np.float32(0)), np.nextafter(halfway, np.float32(np.inf))])
    bfloat_edges = (halves.astype(np.uint32) << 16 | 0x8000).view(np.float32)
    for floats in (*np.array_split(np.resize(edges, 3 << 16), 3), bfloat_edges, random):
        write_arrays(tmp_path / "in", floats=floats, halves=halves.view(np.float16), bfloats=halves)
        run_driver(litmus["O2"], "convert", tmp_path / "in", tmp_path / "out")
        out = read_arrays(tmp_path / "out")
        with np.errstate(over="ignore", invalid="ignore"):
            expected_half = floats.astype(np.float16)
        expected_bfloat = torch.from_numpy(floats).bfloat16().view(torch.int16).numpy().view(np.uint16)
        number = ~np.isnan(floats)
        np.testing.assert_array_equal(out["to_half"].view(np.uint16)[number], expected_half.view(np.uint16)[number])
        np.testing.assert_array_equal(out["to_bfloat"][number], expected_bfloat[number])
        assert (out["to_half"].view(np.uint16)[~number] == 0x7FFF).all()
        assert (out["to_bfloat"][~number] == 0x7FFF).all()
        np.testing.assert_array_equal(out["of_half"], exact)
        np.testing.assert_array_equal(out["of_bfloat"].view(np.uint32), halves.astype(np.uint32) << 16)


# What the shim cannot run.
BEYOND_THE_SHIM = re.compile(r"\basm\b|\b__asm|\bwmma\b|\bcp\.async\b|\b__pipeline|\bcooperative_groups\b")
TORCH_INCLUDE = re.compile(r"^\s*#\s*include\s*[<\"](torch|ATen|c10)/", re.MULTILINE)


def test_device_code_is_what_the_shim_runs() -> None:
    headers = sorted(CUDA_DIR.glob("*.cuh"))
    assert headers
    for path in CUDA_DIR.iterdir():
        assert not BEYOND_THE_SHIM.search(path.read_text()), path
    for path in [*headers, CUDA_DIR.parent / "roi_axis.h"]:
        assert not TORCH_INCLUDE.search(path.read_text()), path


@pytest.mark.parametrize(
    "text",
    [
        'asm volatile("bar.sync 0;");',
        "  __asm__(",
        "nvcuda::wmma::fragment<",
        '"cp.async.ca.shared"',
        "__pipeline_commit();",
        "#include <cooperative_groups.h>",
        "namespace cg = cooperative_groups;",
    ],
)
def test_lint_finds_what_is_beyond_the_shim(text: str) -> None:
    assert BEYOND_THE_SHIM.search(f"int x;\n{text}\n")


def test_lint_finds_torch() -> None:
    assert TORCH_INCLUDE.search("int x;\n#include <ATen/core/Tensor.h>\n")
    assert not TORCH_INCLUDE.search("// not c10/\n#include <cuda_fp16.h>\n")
