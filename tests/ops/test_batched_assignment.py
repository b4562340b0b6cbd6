"""batched_assignment, compiled and reference, against SciPy: same total and same indices."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from implementations import implementations, on_cuda, operators
from scipy.optimize import linear_sum_assignment
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from stoa.ops import batched_assignment, build_info
from stoa.ops.batched_assignment import _NAME, _SCHEMA, MAX_SIZE, _through_cpu, reference

needs_extension = pytest.mark.skipif(not build_info()["compiled"], reason="the extension is not built")
Assign = Callable[..., tuple[Tensor, Tensor]]
everywhere = implementations("assign", batched_assignment, reference)


def scipy_match(cost: np.ndarray) -> list[int] | None:
    """Column of each row or -1, None where SciPy refuses the problem."""
    try:
        rows, cols = linear_sum_assignment(cost)
    except ValueError:
        return None
    match = [-1] * cost.shape[0]
    for row, col in zip(rows.tolist(), cols.tolist(), strict=True):
        match[row] = col
    return match


def assert_equals_scipy(assign: Assign, cost: Tensor, num_rows: Tensor | None, num_cols: Tensor | None) -> None:
    match, infeasible = assign(cost, num_rows, num_cols)
    batch_size, max_rows, max_cols = cost.shape
    assert match.shape == (batch_size, max_rows)
    assert match.dtype == torch.int64
    assert infeasible.shape == (batch_size,)
    assert infeasible.dtype == torch.bool
    for b in range(batch_size):
        rows = max_rows if num_rows is None else int(num_rows[b])
        cols = max_cols if num_cols is None else int(num_cols[b])
        problem = cost[b, :rows, :cols].double().numpy()
        expected = scipy_match(problem)
        assert bool(infeasible[b]) == (expected is None), problem
        padded = [-1] * max_rows if expected is None else expected + [-1] * (max_rows - rows)
        assert match[b].tolist() == padded, problem


def random_costs(kind: str, shape: tuple[int, int, int], generator: torch.Generator) -> Tensor:
    uniform = torch.rand(shape, generator=generator, dtype=torch.float64)
    if kind == "real":
        return uniform - 0.5
    if kind == "ties":
        return (uniform * 4).floor()
    if kind == "constant":
        return torch.full(shape, 0.3, dtype=torch.float64)
    cost = (uniform * 8).floor()
    draw = torch.rand(shape, generator=generator)
    if kind == "forbidden":
        cost[draw < 0.4] = torch.inf
    if kind == "invalid":
        cost[draw < 0.02] = torch.nan
        cost[draw > 0.98] = -torch.inf
    return cost


@everywhere
@pytest.mark.parametrize("kind", ["real", "ties", "constant", "forbidden", "invalid"])
@pytest.mark.parametrize("shape", [(112, 8, 8), (112, 5, 11), (112, 11, 5), (112, 1, 7), (112, 7, 1), (112, 20, 8)])
def test_equals_scipy_with_counts(assign: Assign, kind: str, shape: tuple[int, int, int]) -> None:
    generator = torch.Generator().manual_seed(sum(shape))
    cost = random_costs(kind, shape, generator)
    num_rows = torch.randint(0, shape[1] + 1, shape[:1], generator=generator)
    num_cols = torch.randint(0, shape[2] + 1, shape[:1], generator=generator)
    assert_equals_scipy(assign, cost, None, None)
    assert_equals_scipy(assign, cost, num_rows, num_cols)
    assert_equals_scipy(assign, cost, None, num_cols)


@everywhere
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_dtypes(assign: Assign, dtype: torch.dtype) -> None:
    cost = torch.randn(16, 6, 9, generator=torch.Generator().manual_seed(0)).to(dtype)
    assert_equals_scipy(assign, cost, None, None)


@everywhere
@pytest.mark.parametrize("shape", [(0, 3, 4), (3, 0, 4), (3, 4, 0), (2, 0, 0), (1, 1, 1)])
def test_empty_and_one_element(assign: Assign, shape: tuple[int, int, int]) -> None:
    assert_equals_scipy(assign, torch.ones(shape), None, None)


@everywhere
def test_not_contiguous(assign: Assign) -> None:
    cost = torch.randn(9, 12, 7, generator=torch.Generator().manual_seed(1))
    num_rows = torch.arange(14).remainder(8)[::2]
    assert_equals_scipy(assign, cost.permute(2, 0, 1), None, None)
    assert_equals_scipy(assign, cost.permute(2, 1, 0)[:, ::3], num_rows.clamp(max=4), None)
    assert_equals_scipy(assign, cost[:1, :, :1].expand(9, 12, 7), None, None)


@everywhere
def test_padding_may_hold_anything(assign: Assign) -> None:
    cost = torch.full((2, 4, 4), torch.nan)
    cost[:, :2, :3] = torch.tensor([[3.0, 1.0, 2.0], [1.0, 1.0, 5.0]])
    match, infeasible = assign(cost, torch.tensor([2, 2]), torch.tensor([3, 3]))
    assert match.tolist() == [[1, 0, -1, -1]] * 2
    assert not infeasible.any()


@everywhere
def test_infeasible_and_invalid(assign: Assign) -> None:
    inf, nan = torch.inf, torch.nan
    cost = torch.tensor(
        [[[1.0, inf], [2.0, inf]], [[1.0, nan], [2.0, 3.0]], [[1.0, -inf], [2.0, 3.0]], [[inf, 1], [2, inf]]]
    )
    match, infeasible = assign(cost)
    assert match.tolist() == [[-1, -1], [-1, -1], [-1, -1], [1, 0]]
    assert infeasible.tolist() == [True, True, True, False]


@operators("assign", batched_assignment)
@pytest.mark.parametrize("kind", ["real", "ties"])
@pytest.mark.parametrize("shape", [(1, 300, MAX_SIZE), (1, MAX_SIZE, 300), (2, 257, 257), (8, 32, 31), (8, 33, 32)])
def test_large(assign: Assign, kind: str, shape: tuple[int, int, int]) -> None:
    cost = random_costs(kind, shape, torch.Generator().manual_seed(2))
    assert_equals_scipy(assign, cost, None, None)


@needs_extension
def test_extension_equals_reference() -> None:
    generator = torch.Generator().manual_seed(3)
    for kind in ("real", "ties", "forbidden"):
        cost = random_costs(kind, (40, 20, 33), generator).float()
        num_rows = torch.randint(0, 21, (40,), generator=generator)
        num_cols = torch.randint(0, 34, (40,), generator=generator)
        for compiled, expected in zip(
            batched_assignment(cost, num_rows, num_cols), reference(cost, num_rows, num_cols), strict=True
        ):
            assert torch.equal(compiled, expected)


@needs_extension
def test_result_does_not_depend_on_threads() -> None:
    cost = random_costs("ties", (513, 20, 8), torch.Generator().manual_seed(4))
    threads = torch.get_num_threads()
    results = []
    for num_threads in (1, 2, 5):
        torch.set_num_threads(num_threads)
        results.append(batched_assignment(cost)[0])
    torch.set_num_threads(threads)
    assert all(torch.equal(result, results[0]) for result in results)


# Raised inside of opcheck, for the copy that it makes of an input.
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")
def test_opcheck() -> None:
    cost = torch.randn(3, 4, 5, generator=torch.Generator().manual_seed(5))
    counts = torch.tensor([0, 2, 4])
    op = torch.ops.stoa.batched_assignment.default
    torch.library.opcheck(op, (cost,))
    torch.library.opcheck(op, (cost.half().mT, counts, counts))
    torch.library.opcheck(op, (cost.clone().requires_grad_(), counts, None))


def test_cost_may_require_gradients() -> None:
    cost = torch.randn(2, 3, 3, requires_grad=True)
    match, infeasible = batched_assignment(cost)
    assert not match.requires_grad
    assert not infeasible.requires_grad


def test_schema_is_the_same_with_and_without_the_extension() -> None:
    assert str(torch.ops.stoa.batched_assignment.default._schema) == _NAME + _SCHEMA


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_fake_tensors(device: str) -> None:
    with FakeTensorMode():
        cost = torch.empty(3, 4, 5, device=device)
        match, infeasible = batched_assignment(cost, torch.empty(3, dtype=torch.int64, device=device))
    assert (match.shape, match.dtype, match.device.type) == ((3, 4), torch.int64, device)
    assert (infeasible.shape, infeasible.dtype, infeasible.device.type) == ((3,), torch.bool, device)


def test_compiles_without_a_graph_break() -> None:
    cost = torch.randn(2, 3, 4, generator=torch.Generator().manual_seed(6))
    compiled = torch.compile(lambda x: batched_assignment(x * 2.0)[0] + 1, backend="eager", fullgraph=True)
    assert torch.equal(compiled(cost), batched_assignment(cost * 2.0)[0] + 1)


def test_the_way_through_the_cpu_changes_nothing() -> None:
    cost = torch.randn(5, 4, 6, generator=torch.Generator().manual_seed(7))
    arguments = (cost, torch.tensor([4, 3, 2, 1, 0]), None)
    for actual, expected in zip(_through_cpu(*arguments), batched_assignment(*arguments), strict=True):
        assert torch.equal(actual, expected)


@pytest.mark.needs_cuda
@pytest.mark.parametrize("shape", [(2, 300, MAX_SIZE), (2, MAX_SIZE, 300), (3, 257, 257)])
def test_large_on_a_gpu(shape: tuple[int, int, int]) -> None:
    cost = random_costs("ties", shape, torch.Generator().manual_seed(2))
    for actual, expected in zip(on_cuda(batched_assignment)(cost), batched_assignment(cost), strict=True):
        assert torch.equal(actual, expected)


@pytest.mark.needs_cuda
def test_a_gpu_clamps_counts_out_of_range_and_flags_them() -> None:
    cost = torch.randn(3, 4, 5)
    match, infeasible = on_cuda(batched_assignment)(cost, torch.tensor([9, -1, 2]), None)
    expected, _ = batched_assignment(cost, torch.tensor([4, 0, 2]), None)
    assert torch.equal(match, expected)
    assert infeasible.tolist() == [True, True, False]


@pytest.mark.needs_cuda
def test_a_gpu_never_waits_and_is_captured_in_a_graph() -> None:
    cost = torch.randn(64, 20, 10).cuda()
    counts = torch.full((64,), 7).cuda()
    eager = batched_assignment(cost, counts, counts)
    torch.cuda.set_sync_debug_mode("error")
    try:
        batched_assignment(cost, counts, counts)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = batched_assignment(cost, counts, counts)
    graph.replay()
    torch.cuda.synchronize()
    assert all(torch.equal(a, b) for a, b in zip(captured, eager, strict=True))


COST = torch.zeros(2, 3, 4)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((COST[0],), r"cost must be \(B, R, C\), got shape \(3, 4\)"),
        ((COST.long(),), r"cost must be float16, bfloat16, float32 or float64, got torch.int64"),
        ((torch.zeros(1, 1025, 1),), r"cost has 1025 rows and 1 columns, allowed are up to 1024 of each"),
        ((COST, torch.tensor([1])), r"num_rows must be \(2,\), one for each problem, got shape \(1,\)"),
        ((COST, None, torch.tensor([1, 2]).int()), r"num_cols must be int64, got torch.int32: use num_cols.long\(\)"),
        ((COST, torch.zeros(2, dtype=torch.int64, device="meta")), r"num_rows is on meta, cost on cpu"),
        ((COST, torch.tensor([1, 4])), r"num_rows\[1\] is 4, allowed are 0 to 3, the rows of cost"),
        ((COST, None, torch.tensor([-1, 4])), r"num_cols\[0\] is -1, allowed are 0 to 4, the columns of cost"),
    ],
)
def test_errors_name_the_argument(arguments: tuple[Tensor | None, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        batched_assignment(*arguments)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((COST[0],), r"cost must be \(B, R, C\)"),
        ((torch.zeros(1, 1, 1025),), r"allowed are up to 1024"),
        ((COST, torch.tensor([1])), r"num_rows must be an int64 tensor of shape \(2,\)"),
        ((COST, None, torch.tensor([1, 2]).int()), r"num_cols must be an int64 tensor"),
        ((COST, torch.tensor([1, 4])), r"num_rows\[1\] is 4, allowed are 0 to 3, the rows of cost"),
    ],
)
@needs_extension
def test_the_raw_operator_reads_nothing_out_of_bounds(arguments: tuple[Tensor | None, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        torch.ops.stoa.batched_assignment(*arguments)
