"""Minimal-cost matching of many small problems at once.

Shapes: B problems, R rows, C columns.
"""

import math

import torch
from torch import Tensor

from stoa.ops._extension import load_extension

MAX_SIZE = 1024
_NAME = "stoa::batched_assignment"
_SCHEMA = "(Tensor cost, Tensor? num_rows=None, Tensor? num_cols=None) -> (Tensor match, Tensor infeasible)"
_COST_DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


def batched_assignment(
    cost: Tensor, num_rows: Tensor | None = None, num_cols: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Match rows to columns at minimal total cost, min(rows, columns) pairs a problem.

    Exact, in double precision; among optimal matches the one of `scipy.optimize.linear_sum_assignment` is returned.
    Not differentiable: the results are integers. On a device without a kernel of its own the work is done on the CPU,
    which waits for the device.

    Args:
        cost: (B, R, C) float16, bfloat16, float32 or float64, R and C up to 1024. +inf forbids a pair.
        num_rows: (B,) int64 on the device of `cost`, rows that take part; the rest may hold anything. Default R.
        num_cols: (B,) int64, likewise for columns. Default C.

    Returns:
        match: (B, R) int64, the column of each row or -1.
        infeasible: (B,) bool, true where no complete match is finite or the cost holds a NaN or -inf; such a problem
            has -1 everywhere.

    Raises:
        ValueError: an argument has the wrong shape, dtype or device, or a count is out of range.

    Source: R. Jonker and A. Volgenant, "A shortest augmenting path algorithm for dense and sparse linear assignment
    problems", 1987; D. F. Crouse, "On implementing 2D rectangular assignment algorithms", 2016.
    """
    _check(cost, num_rows, num_cols)
    match, infeasible = torch.ops.stoa.batched_assignment(cost, num_rows, num_cols)
    return match, infeasible


def reference(cost: Tensor, num_rows: Tensor | None = None, num_cols: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """`batched_assignment` in plain Python, on the CPU."""
    batch_size, max_rows, max_cols = cost.shape
    row_counts = _counts(num_rows, "num_rows", "rows", batch_size, max_rows)
    col_counts = _counts(num_cols, "num_cols", "columns", batch_size, max_cols)
    match = torch.full((batch_size, max_rows), -1, dtype=torch.int64)
    infeasible = torch.zeros(batch_size, dtype=torch.bool)
    for b, (rows, cols) in enumerate(zip(row_counts, col_counts, strict=True)):
        problem = cost[b, :rows, :cols].detach().double()
        # The augmenting paths want no more rows than columns.
        columns = _solve((problem.T if rows > cols else problem).tolist())
        if columns is None:
            infeasible[b] = True
        elif rows > cols:
            match[b, columns] = torch.arange(cols)
        else:
            match[b, :rows] = torch.tensor(columns, dtype=torch.int64)
    return match, infeasible


def _solve(cost: list[list[float]]) -> list[int] | None:
    """Columns of the rows of one problem with at most as many rows as columns, None where there is no valid match."""
    if any(math.isnan(value) or value == -math.inf for row in cost for value in row):
        return None
    num_cols = len(cost[0]) if cost else 0
    row_dual, col_dual = [0.0] * len(cost), [0.0] * num_cols
    col_of_row: list[int | None] = [None] * len(cost)
    row_of_col: list[int | None] = [None] * num_cols

    for start_row in range(len(cost)):
        # Dijkstra's algorithm from the new row over costs reduced by the duals, to the nearest free column.
        distance, parent_row = [math.inf] * num_cols, [-1] * num_cols
        # The order of the open columns decides ties: it is SciPy's.
        open_cols, settled_cols = list(reversed(range(num_cols))), []
        row: int | None = start_row
        nearest = 0.0
        while row is not None:
            for col in open_cols:
                through_row = nearest + cost[row][col] - row_dual[row] - col_dual[col]
                if through_row < distance[col]:
                    distance[col], parent_row[col] = through_row, row
            nearest = min((distance[col] for col in open_cols), default=math.inf)
            if nearest == math.inf:
                return None
            ties = [k for k, col in enumerate(open_cols) if distance[col] == nearest]
            free_ties = [k for k in ties if row_of_col[open_cols[k]] is None]
            chosen = free_ties[-1] if free_ties else ties[0]
            open_cols[chosen], open_cols[-1] = open_cols[-1], open_cols[chosen]
            settled_cols.append(open_cols.pop())
            row = row_of_col[settled_cols[-1]]

        row_dual[start_row] += nearest
        for col in settled_cols:
            slack = nearest - distance[col]
            col_dual[col] -= slack
            owner = row_of_col[col]
            if owner is not None:
                row_dual[owner] += slack

        # Along the path, every row takes the column it was reached for and hands its old one to its predecessor.
        handed: int | None = settled_cols[-1]
        while handed is not None:
            taker = parent_row[handed]
            row_of_col[handed] = taker
            handed, col_of_row[taker] = col_of_row[taker], handed
    return [col for col in col_of_row if col is not None]


def _check(cost: Tensor, num_rows: Tensor | None, num_cols: Tensor | None) -> None:
    """Shapes, dtypes and devices: what is known without reading a value."""
    if cost.dim() != 3:
        raise ValueError(f"cost must be (B, R, C), got shape {tuple(cost.shape)}")
    if cost.dtype not in _COST_DTYPES:
        raise ValueError(f"cost must be float16, bfloat16, float32 or float64, got {cost.dtype}: use cost.float()")
    batch_size, max_rows, max_cols = cost.shape
    if max_rows > MAX_SIZE or max_cols > MAX_SIZE:
        raise ValueError(f"cost has {max_rows} rows and {max_cols} columns, allowed are up to {MAX_SIZE} of each")
    for name, counts in (("num_rows", num_rows), ("num_cols", num_cols)):
        if counts is None:
            continue
        if counts.shape != (batch_size,):
            raise ValueError(f"{name} must be ({batch_size},), one for each problem, got shape {tuple(counts.shape)}")
        if counts.dtype != torch.int64:
            raise ValueError(f"{name} must be int64, got {counts.dtype}: use {name}.long()")
        if counts.device != cost.device:
            raise ValueError(f"{name} is on {counts.device}, cost on {cost.device}: move {name} to cost.device")


def _counts(counts: Tensor | None, name: str, what: str, batch_size: int, limit: int) -> list[int]:
    if counts is None:
        return [limit] * batch_size
    values: list[int] = counts.tolist()
    for b, value in enumerate(values):
        if not 0 <= value <= limit:
            raise ValueError(f"{name}[{b}] is {value}, allowed are 0 to {limit}, the {what} of cost")
    return values


def _through_cpu(cost: Tensor, num_rows: Tensor | None = None, num_cols: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """For devices without a kernel of their own."""
    counts = [None if n is None else n.cpu() for n in (num_rows, num_cols)]
    match, infeasible = torch.ops.stoa.batched_assignment(cost.cpu(), *counts)
    return match.to(cost.device), infeasible.to(cost.device)


def _fake(cost: Tensor, num_rows: Tensor | None = None, num_cols: Tensor | None = None) -> tuple[Tensor, Tensor]:
    return cost.new_empty(cost.shape[:2], dtype=torch.int64), cost.new_empty(cost.shape[:1], dtype=torch.bool)


if load_extension() is None:
    torch.library.define(_NAME, _SCHEMA, tags=(torch.Tag.pt2_compliant_tag,))
    torch.library.impl(_NAME, "cpu", reference)
torch.library.impl(_NAME, "default", _through_cpu)
torch.library.register_fake(_NAME, _fake)
