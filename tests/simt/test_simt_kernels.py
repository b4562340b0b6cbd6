"""The CUDA kernels, run on the host thread by thread, against oracles that share no code with them."""

import shutil
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy.optimize import linear_sum_assignment
from simt_build import HERE, PATTERNS, RACE, REPO_ROOT, compile_driver, read_arrays, run_driver, write_arrays
from torch import Tensor
from torchvision.ops import roi_align

MODES = ("O2", "tsan", pytest.param("asan", marks=pytest.mark.slow))
Arrays = dict[str, np.ndarray]
NAN = float("nan")
WARP_SIZE = 32


@dataclass(frozen=True)
class Plant:
    """A mistake, and what it shows in: a mode whose run must end with `exit_status`, or 0 for wrong results."""

    operator: str
    right: str
    wrong: str
    mode: str = "tsan"
    exit_status: int = RACE
    message: str = "data race"


PLANTS = {
    "staged map is read before it is complete": Plant(
        "roi_align_max", "    __syncthreads();\n    numbers = true;", "    numbers = true;"
    ),
    "tables of the last box are overwritten": Plant(
        "roi_align_max", "__syncwarp();  // before the table holds the next box", ""
    ),
    "last channels are read past the end": Plant(
        "roi_align_max",
        "channel_ + v < last_ ? channel_ + v : last_",
        "channel_ + v",
        "asan",
        1,
        "heap-buffer-overflow",
    ),
    "columns change places while they are read": Plant(
        "batched_assignment", "--num_open;\n      __syncwarp();", "--num_open;"
    ),
    "duals are used before they are updated": Plant(
        "batched_assignment", "__syncwarp();\n    return free_col;", "return free_col;"
    ),
    "sum of earlier keys is not rescaled": Plant("trajectory_attention", "out.scale(shrink);", "", "O2", 0, ""),
}
FIRST, *OTHERS = PLANTS


def built(operator: str, mode: str) -> Path:
    """Executable of an operator, compiled at its first use."""
    return compile_driver(HERE / f"{operator}.cpp", mode)


def run(executable: Path, folder: Path, cases: dict[str, Arrays]) -> dict[str, Arrays]:
    """The outputs of the cases, the same for every order of threads and whatever unset memory holds."""
    results: list[dict[str, Arrays]] = []
    for seed, pattern in enumerate(PATTERNS):
        files: list[Path] = []
        for name, arrays in cases.items():
            files += [folder / f"{name}.in", folder / f"{name}.out"]
            write_arrays(files[-2], **arrays)
        run_driver(executable, *files, seed=seed, pattern=pattern)
        results.append({path.stem: read_arrays(path) for path in files[1::2]})
    for name, arrays in results[0].items():
        for key, array in arrays.items():
            assert array.tobytes() == results[1][name][key].tobytes(), (name, key)
    return results[0]


def to_numpy(x: Tensor) -> np.ndarray:
    x = x.detach().contiguous()
    return x.view(torch.int16).numpy().view(np.uint16) if x.dtype == torch.bfloat16 else x.numpy()


def to_double(x: np.ndarray) -> Tensor:
    """Floating numbers that a driver wrote."""
    x = x.copy()
    return (
        torch.from_numpy(x.view(np.int16)).view(torch.bfloat16) if x.dtype == np.uint16 else torch.tensor(x)
    ).double()


def accumulator(dtype: torch.dtype) -> torch.dtype:
    return torch.float64 if dtype == torch.float64 else torch.float32


# roi_align_max


@dataclass(frozen=True)
class Roi:
    dtype: torch.dtype
    grid: tuple[int, int]
    output: tuple[int, int]
    channels: int
    boxes: int = 11
    staged: bool = True
    inside: bool = False  # tokens are part of a larger tensor
    cls: bool = False  # tokens are behind one, boxes within the frame
    nan: bool = False
    zero: bool = False

    # Tolerances; results of 16 bits are rounded once.
    @property
    def close(self) -> dict[str, float]:
        eps = torch.finfo(self.dtype).eps
        return {"rtol": eps, "atol": 1e-10 if self.dtype == torch.float64 else 1e-4}


ROI = {
    "behind_cls": Roi(torch.float32, (7, 5), (3, 2), 33, inside=True),
    "bins_of_the_released_model": Roi(torch.float32, (14, 14), (5, 5), 5, boxes=3),
    "output_larger": Roi(torch.float32, (2, 3), (7, 4), 67, boxes=8),
    "too_large_to_stage": Roi(torch.float32, (30, 30), (7, 7), 33, staged=False),
    "one_patch": Roi(torch.float32, (1, 1), (1, 1), 1, boxes=1),
    "no_boxes": Roi(torch.float32, (7, 5), (3, 2), 33, boxes=0),
    "whole": Roi(torch.float32, (7, 5), (9, 6), 36, cls=True),
    "equal_bins": Roi(torch.float32, (7, 5), (7, 5), 5, boxes=3, zero=True),
    "nan": Roi(torch.float32, (7, 5), (3, 2), 5, nan=True),
    "nan_whole": Roi(torch.float32, (7, 5), (7, 5), 8, boxes=9, cls=True, nan=True),
    "double": Roi(torch.float64, (6, 7), (4, 3), 67, inside=True, staged=False),
    "double_in_bands": Roi(torch.float64, (30, 30), (3, 2), 5, staged=False),
    "half": Roi(torch.float16, (7, 5), (3, 2), 67),
    "half_inside": Roi(torch.float16, (4, 4), (2, 2), 5, inside=True),
    "half_too_large_to_stage": Roi(torch.float16, (40, 40), (5, 3), 33, boxes=5, staged=False, inside=True),
    "half_as_in_training": Roi(torch.float16, (14, 14), (14, 14), 136, boxes=10, cls=True),
    "bfloat16": Roi(torch.bfloat16, (5, 7), (2, 3), 33, inside=True),
    "bfloat16_whole": Roi(torch.bfloat16, (9, 5), (9, 5), 72, cls=True),
    "bfloat16_too_large_to_stage": Roi(torch.bfloat16, (30, 30), (3, 2), 5, staged=False),
}
HUGE_BOX = 8


def roi_boxes(case: Roi, num_frames: int) -> Tensor:
    corners = torch.rand(num_frames, case.boxes, 2, 2).sort(dim=2).values
    boxes = corners.flatten(2).to(accumulator(case.dtype))
    special = [
        (0, 0, 1, 1),
        (0.3, 0.4, 0.3001, 0.4001),
        (0.6, 0.2, 0.4, 0.5),
        (0.3, 0.3, 0.3, 0.7),
        (0.1, NAN, 0.5, 0.5),
        (-float("inf"), 0, 1, 1),
        (-0.25, -0.3, 0.513, 0.637),
        (0.5, 0.6, 1.217, 1.331),
    ]
    if case.boxes > HUGE_BOX:
        boxes[0, :HUGE_BOX] = torch.tensor(special, dtype=boxes.dtype)
        boxes[0, HUGE_BOX] = torch.tensor([-1, -1, 1, 1]) * torch.finfo(boxes.dtype).max
    return boxes.clamp(0, 1) if case.nan or case.cls else boxes


def roi_arrays(case: Roi, num_frames: int = 2) -> Arrays:
    patches = case.grid[0] * case.grid[1]
    before, aside = int(case.inside or case.cls), 3 if case.inside else 0
    shape = (num_frames, before + patches, aside + case.channels)
    tokens = torch.full(shape, NAN).to(case.dtype)
    tokens[:, before:, aside:] = torch.randn(num_frames, patches, case.channels)
    if case.nan:
        tokens[:, ::9] = NAN
    if case.zero:
        tokens.zero_()
    layout = [case.channels, shape[1] * shape[2], shape[2], before * shape[2] + aside]
    return {
        "tokens": to_numpy(tokens),
        "boxes": to_numpy(roi_boxes(case, num_frames)),
        "valid": np.arange(num_frames * case.boxes).reshape(num_frames, case.boxes) % 7 != 5,
        "grid": np.array([*case.grid, *case.output], dtype=np.int32),
        "layout": np.array(layout),
        "grad": to_numpy(torch.randn(num_frames, case.boxes, case.channels).to(case.dtype)),
    }


def check_roi(case: Roi, given: Arrays, out: Arrays) -> None:
    (h, w), (channels, _, row, first) = case.grid, given["layout"].tolist()
    num_frames, num_boxes = given["valid"].shape
    tokens = to_double(given["tokens"])[:, first // row :, first % row :].requires_grad_()
    boxes = torch.from_numpy(given["boxes"]).double()
    counts = (boxes[..., 2:] > boxes[..., :2]).all(-1) & boxes.isfinite().all(-1) & torch.from_numpy(given["valid"])
    # There is no oracle for a box much larger than the frame: the operator takes fewer points of it.
    huge = counts & (boxes.abs() > 2).any(-1)
    usable = torch.where((counts & ~huge)[..., None], boxes, torch.tensor([0.0, 0, 1, 1]))
    maps = tokens.transpose(1, 2).reshape(num_frames, channels, h, w)
    rois = list(usable * torch.tensor([w, h, w, h]))
    bins = roi_align(maps, rois, case.output, aligned=True, sampling_ratio=-1)
    bins = bins.flatten(2).unflatten(0, (num_frames, num_boxes))
    values, winner = to_double(out["values"]), torch.from_numpy(out["winner"].astype(np.int64))
    assert bool(out["staged"][0]) == case.staged
    assert (winner[~counts] == -1).all()
    assert (values[~counts] == 0).all()
    assert (values[huge].abs() <= tokens.abs().max()).all()

    checked = counts & ~huge
    torch.testing.assert_close(values[checked], bins.max(-1).values[checked], equal_nan=True, **case.close)
    won = bins.gather(-1, winner.clamp(min=0)[..., None]).squeeze(-1)
    torch.testing.assert_close(won[checked], bins.max(-1).values[checked], equal_nan=True, rtol=0, atol=1e-5)
    assert not case.zero or (winner[checked] == 0).all()
    first_nan = torch.from_numpy(bins.detach().isnan().numpy().argmax(-1))
    assert (winner == first_nan)[checked][bins.isnan().any(-1)[checked]].all()
    if num_boxes > HUGE_BOX:
        assert 0 < int(checked.sum()) < checked.numel()

    # The gradient of the bins that won, the maximum's but for ties.
    grad = to_double(given["grad"]) * checked[..., None]
    (expected,) = torch.autograd.grad((won * grad).sum(), tokens)
    if not huge.any():
        torch.testing.assert_close(to_double(out["grad_tokens"]), expected, **case.close)


@pytest.mark.parametrize("mode", MODES)
def test_roi_align_max(tmp_path: Path, mode: str) -> None:
    torch.manual_seed(0)
    given = {name: roi_arrays(case) for name, case in ROI.items()}
    results = run(built("roi_align_max", mode), tmp_path, given)
    for name, case in ROI.items():
        check_roi(case, given[name], results[name])


@pytest.mark.slow
def test_bins_that_do_not_exist_have_no_gradient(tmp_path: Path) -> None:
    torch.manual_seed(0)
    given = roi_arrays(ROI["behind_cls"])
    given["winner"] = np.resize(np.array([-1, 6, 32767, -32768], dtype=np.int16), given["grad"].shape)
    results = run(built("roi_align_max", "asan"), tmp_path, {"strange": given})
    assert (results["strange"]["grad_tokens"] == 0).all()


# trajectory_attention


@dataclass(frozen=True)
class Attention:
    dtype: torch.dtype
    B: int
    H: int
    S: int
    D: int
    Q: int | None = None  # own labels of the queries
    labels: int = 5
    first_label: int = -1
    scale: float = 1  # of the queries
    padding: int = 0  # elements between rows
    finite: bool = True

    @property
    def packed(self) -> bool:
        """Whether rows move in packs of 16 bytes."""
        return self.D in (32, 64, 128) and self.padding * self.dtype.itemsize % 16 == 0

    @property
    def close(self) -> dict[str, float]:
        eps = torch.finfo(self.dtype).eps
        return {"rtol": 4 * eps, "atol": 1e-10 if self.dtype == torch.float64 else max(2e-5, 4 * eps)}


ATTENTION = {
    "more_than_one_chunk": Attention(torch.float32, 1, 2, 66, 32, padding=3),
    "steep": Attention(torch.float32, 2, 1, 40, 128, Q=2, labels=1, scale=20),
    "one_label": Attention(torch.float32, 1, 1, 40, 5, labels=1, first_label=0),
    "one_label_packed": Attention(torch.float32, 1, 5, 40, 32, labels=1, first_label=0, padding=4),
    "no_token": Attention(torch.float32, 1, 1, 5, 32, labels=0),
    "own_queries": Attention(torch.float32, 1, 2, 37, 64, Q=6, labels=7),
    "not_finite": Attention(torch.float32, 1, 3, 40, 32, finite=False),
    "not_finite_of_any_width": Attention(torch.float32, 1, 3, 40, 30, finite=False),
    "double": Attention(torch.float64, 1, 2, 35, 100, Q=3),
    "double_packed": Attention(torch.float64, 2, 2, 35, 128, Q=3),
    "double_narrow": Attention(torch.float64, 1, 3, 35, 32, Q=3, padding=2),
    "half": Attention(torch.float16, 1, 2, 35, 64),
    "half_of_models": Attention(torch.float16, 1, 6, 140, 64, labels=20),
    "half_narrow": Attention(torch.float16, 1, 9, 34, 32, padding=8),
    "half_wide": Attention(torch.float16, 1, 3, 34, 128, Q=5),
    "half_not_aligned": Attention(torch.float16, 1, 3, 34, 64, Q=5, padding=1),
    "bfloat16": Attention(torch.bfloat16, 1, 1, 33, 40),
    "bfloat16_packed": Attention(torch.bfloat16, 2, 5, 33, 64),
}


def attention_arrays(case: Attention) -> Arrays:
    queries = case.S if case.Q is None else case.Q
    labels = torch.randint(case.first_label, case.labels, (case.B, case.S))
    # Labels that no key has are among those of own queries.
    q_labels = labels if case.Q is None else torch.randint(-1, case.labels + 2, (case.B, queries))
    arrays = {
        "sizes": np.array([case.B, case.H, queries, case.S, case.D]),
        "packed": np.array([case.packed], dtype=np.int64),
        "labels": to_numpy(labels),
        "q_labels": to_numpy(q_labels),
    }
    for name, rows in (("q", queries), ("k", case.S), ("v", case.S), ("grad", queries)):
        # Heads inside of rows, as a projection leaves them.
        x = torch.full((case.B, rows, case.H, case.D + case.padding), NAN)
        x[..., : case.D] = torch.randn(case.B, rows, case.H, case.D) * (case.scale if name == "q" else 1)
        if name == "k" and not case.finite:
            # Scores of -inf, inf and NaN, alone in their group and beside others.
            x[:, ::3, :, 0] = torch.tensor([NAN, torch.inf, -torch.inf]).repeat(5)[: len(x[0, ::3]), None]
        arrays[name] = to_numpy(x.to(case.dtype))
        arrays[f"{name}_strides"] = np.array([x.stride(0), x.stride(2), x.stride(1)])
    return arrays


def check_attention(case: Attention, given: Arrays, out: Arrays) -> None:
    q, k, v = (to_double(given[name])[..., : case.D].transpose(1, 2).requires_grad_() for name in "qkv")
    labels, q_labels = torch.tensor(given["labels"]), torch.tensor(given["q_labels"])
    seen = (q_labels[:, :, None] == labels[:, None]) & (q_labels >= 0)[..., None]
    sees = seen.any(-1)[:, None, :, None]
    scores = (q @ k.transpose(-1, -2) / case.D**0.5).masked_fill(~seen[:, None], -torch.inf)
    if not case.finite:
        # Unlike SDPA's mask, which is added to the scores, this leaves nothing of a score that is not seen.
        expected = (scores.softmax(-1) @ v).where(sees, 0)
        assert 0 < int(expected.isnan().sum()) < expected.numel()
        torch.testing.assert_close(to_double(out["out"]).transpose(1, 2), expected, equal_nan=True, **case.close)
        return
    # A row that sees nothing would not be a number; it sees everything and is dropped.
    expected = F.scaled_dot_product_attention(q, k, v, attn_mask=(seen[:, None] | ~sees)) * sees
    grad = to_double(given["grad"])[..., : case.D].transpose(1, 2)
    grads = torch.autograd.grad((expected * grad).sum(), (q, k, v))
    for name, tensor in zip(("out", "grad_q", "grad_k", "grad_v"), (expected, *grads), strict=True):
        torch.testing.assert_close(to_double(out[name]).transpose(1, 2), tensor, **case.close)
    logsumexp = torch.tensor(out["logsumexp"]).double()
    torch.testing.assert_close(logsumexp, scores.logsumexp(-1), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("mode", ("O2", *(pytest.param(mode, marks=pytest.mark.slow) for mode in ("tsan", "asan"))))
def test_trajectory_attention(tmp_path: Path, mode: str) -> None:
    torch.manual_seed(0)
    given = {name: attention_arrays(case) for name, case in ATTENTION.items()}
    results = run(built("trajectory_attention", mode), tmp_path, given)
    for name, case in ATTENTION.items():
        check_attention(case, given[name], results[name])


# batched_assignment


def assignment_arrays(cost: Tensor, **counts: list[int]) -> Arrays:
    storage = cost.untyped_storage()
    flat = torch.empty(0, dtype=cost.dtype).set_(storage)
    return {
        "cost": to_numpy(flat),
        "layout": np.array([*cost.shape, *cost.stride()]),
        **{name: np.array(values) for name, values in counts.items()},
    }


def assignment_cases() -> dict[str, tuple[Tensor, dict[str, list[int]]]]:
    inf = float("inf")
    generator = torch.Generator().manual_seed(0)

    def rand(*shape: int) -> Tensor:
        return torch.rand(shape, generator=generator, dtype=torch.float64)

    forbidden = rand(40, 5, 6)
    forbidden[forbidden < 0.5] = inf
    # What does not take part may be anything.
    counted, num_rows, num_cols = rand(4, 5, 7), [0, 5, 3, 1], [7, 0, 2, 7]
    for cost, rows, cols in zip(counted, num_rows, num_cols, strict=True):
        cost[rows:], cost[:, cols:] = NAN, -inf
    invalid = rand(12, 3, 3)
    invalid[::3, 1, 1], invalid[1::3, 2, 0] = NAN, -inf
    return {
        "wide": (rand(60, 4, 9), {}),
        "tall": (rand(60, 9, 4), {}),
        "ties": ((rand(80, 6, 6) * 3).floor(), {}),
        "counts": (counted, {"num_rows": num_rows, "num_cols": num_cols}),
        "out_of_range": (rand(3, 4, 4), {"num_rows": [9, -2, 3], "num_cols": [4, 4, 99]}),
        "forbidden": (forbidden, {}),
        "invalid": (invalid, {}),
        "half": (rand(20, 5, 8).half(), {}),
        "bfloat16": (rand(20, 8, 5).bfloat16(), {}),
        "float_strided": (rand(7, 6, 20).float().permute(2, 0, 1), {}),
        "more_than_a_warp": ((rand(1, 40, 70) * 9).floor(), {}),
        "whole_warp": (rand(4, 32, 32), {}),
        "whole_warp_of_ties": ((rand(4, 32, 32) * 5).floor(), {}),
        "signed": (rand(40, 7, 11) - 0.5, {}),
        "signed_zeros": ((rand(80, 7, 6) * 3 - 1.5).round(), {}),
        # Equal in their high words.
        "close": (1 + (rand(40, 7, 6) * 4).floor() * 2.0**-52, {}),
        "close_and_negative": (-1 - (rand(40, 6, 9) * 4).floor() * 2.0**-52, {}),
        "trajectories_to_nouns": (-(5 * rand(60, 20, 10)).softmax(-1).float(), {}),
    }


def check_assignment(cost: Tensor, counts: dict[str, list[int]], out: Arrays) -> None:
    _, max_rows, max_cols = cost.shape
    for b, problem in enumerate(cost.double().numpy()):
        rows, cols = (counts.get(name, [most] * len(cost))[b] for name, most in
                      (("num_rows", max_rows), ("num_cols", max_cols)))  # fmt: skip
        in_range = 0 <= rows <= max_rows and 0 <= cols <= max_cols
        rows, cols = min(max(rows, 0), max_rows), min(max(cols, 0), max_cols)
        expected = np.full(max_rows, -1)
        try:
            row_of, col_of = linear_sum_assignment(problem[:rows, :cols])
            expected[row_of] = col_of
            feasible = True
        except ValueError:
            feasible = False
        assert out["match"][b].tolist() == expected.tolist()
        assert bool(out["infeasible"][b]) == (not feasible or not in_range)


@pytest.mark.parametrize("mode", MODES)
def test_batched_assignment(tmp_path: Path, mode: str) -> None:
    cases = assignment_cases()
    given = {name: assignment_arrays(cost, **counts) for name, (cost, counts) in cases.items()}
    for name, (cost, _) in cases.items():
        if max(cost.shape[1:]) <= WARP_SIZE:
            given[f"small {name}"] = {**given[name], "small": np.array([1])}
    results = run(built("batched_assignment", mode), tmp_path, given)
    for name, result in results.items():
        check_assignment(*cases[name.removeprefix("small ")], result)


def test_the_least_of_a_warp_by_shuffles() -> None:
    generator = np.random.default_rng(0)
    for most in (3, 2**32):
        numbers = generator.integers(0, most, WARP_SIZE)
        printed = run_driver(built("batched_assignment", "O2"), "least", *numbers).stdout.split()
        assert printed == [str(numbers.min())] * WARP_SIZE


# quick_gelu


@pytest.mark.parametrize("mode", MODES)
def test_quick_gelu(tmp_path: Path, mode: str) -> None:
    torch.manual_seed(0)
    cases = {
        f"{count} {dtype} {before}": (count, dtype, before)
        for count in (1, 9, 2048, 5000)
        for dtype in (torch.float32, torch.float64, torch.float16, torch.bfloat16)
        for before in (0, 1)
    }
    given = {}
    for name, (count, dtype, before) in cases.items():
        x, grad = (3 * torch.randn(count + before)).to(dtype), torch.randn(count).to(dtype)
        layout = np.array([count, before])
        given[name] = {"x": to_numpy(x), "grad": to_numpy(grad), "layout": layout}
    results = run(built("quick_gelu", mode), tmp_path, given)
    for name, (_, dtype, before) in cases.items():
        x = to_double(given[name]["x"])[before:].requires_grad_()
        out = x * torch.sigmoid(1.702 * x)
        out.backward(to_double(given[name]["grad"]))
        eps = {torch.float64: 1e-12, torch.float32: 1e-5, torch.float16: 2e-3, torch.bfloat16: 1e-2}[dtype]
        torch.testing.assert_close(to_double(results[name]["out"]), out.detach(), rtol=eps, atol=eps)
        torch.testing.assert_close(to_double(results[name]["grad_x"]), x.grad, rtol=eps, atol=eps)


# What the checks above are worth


@pytest.mark.parametrize("name", [FIRST, *(pytest.param(name, marks=pytest.mark.slow) for name in OTHERS)])
def test_planted_mistakes_are_seen(tmp_path: Path, name: str) -> None:
    torch.manual_seed(0)
    plant = PLANTS[name]
    if plant.operator == "roi_align_max":
        given = {key: roi_arrays(ROI[key]) for key in ("behind_cls", "half")}
    elif plant.operator == "trajectory_attention":
        given = {"one_label": attention_arrays(ATTENTION["one_label"])}
    else:
        cost, counts = assignment_cases()["more_than_a_warp"]
        given = {"more_than_a_warp": assignment_arrays(cost, **counts)}
    files: list[Path] = []
    for key, arrays in given.items():
        files += [tmp_path / f"{key}.in", tmp_path / f"{key}.out"]
        write_arrays(files[-2], **arrays)
    csrc = tmp_path / "csrc"
    shutil.copytree(REPO_ROOT / "csrc", csrc)
    kernel = csrc / "cuda" / f"{plant.operator}.cuh"
    assert kernel.read_text().count(plant.right) == 1, plant.right
    kernel.write_text(kernel.read_text().replace(plant.right, plant.wrong))
    executable = compile_driver(HERE / f"{plant.operator}.cpp", plant.mode, csrc)
    done = run_driver(executable, *files, expect=plant.exit_status)
    if plant.exit_status:
        assert plant.message in done.stderr
    else:
        with pytest.raises(AssertionError):
            check_attention(ATTENTION["one_label"], given["one_label"], read_arrays(files[1]))


@pytest.mark.parametrize("numbers", [(3, 5, 196, 768), (2**20, 195, 196, 4096), (2**31, 1, 2, 2**20)])
def test_offsets_of_tokens_pass_32_bits(numbers: tuple[int, int, int, int]) -> None:
    frame, inner, inner_size, channels = numbers
    printed = run_driver(built("roi_align_max", "O2"), "offset", *numbers).stdout
    assert int(printed) == (frame * inner_size + inner) * channels


@pytest.mark.parametrize("at", [(1, 2, 3), (2**20, 15, 2**12)])
def test_offsets_of_rows_pass_32_bits(at: tuple[int, int, int]) -> None:
    strides = (16 * 2**13 * 128, 128, 16 * 128)
    printed = run_driver(built("trajectory_attention", "O2"), "offset", *at, *strides).stdout
    assert int(printed) == sum(i * stride for i, stride in zip(at, strides, strict=True))
