"""Tables of what a plan has finished: means and spreads."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from stoa.tasks.ablation.plan import FIELD, Cell, Plan, fill
from stoa.text_files import read_own


class Row(NamedTuple):
    """Of a table: its name, and per column the values of the cells it stands for."""

    name: str
    columns: dict[str, list[float]]


def tabulate(plan: Plan) -> dict[str, list[Row]]:
    """The tables of what is finished.

    Raises:
        ValueError: a table asks for what the results do not hold.
    """
    there = [cell for cell in plan.cells if plan.result(cell).is_file()]
    then = "delete it, and run its cell again"
    results = {cell.name: (cell, read_own(plan.result(cell), (), then)) for cell in there}
    tables = {}
    for title, table in plan.tables.items():
        rows: dict[str, dict[str, list[float]]] = {}
        for cell, result in results.values():
            name = _row_of(table["rows"], cell)
            if name is not None:
                columns = rows.setdefault(name, {column: [] for column in table["values"]})
                for column, paths in table["values"].items():
                    found = [
                        _look_up(result, path, cell.name) for path in ([paths] if isinstance(paths, str) else paths)
                    ]
                    columns[column].append(statistics.mean(found))
        tables[title] = [Row(name, columns) for name, columns in rows.items()]
    return tables


def format_tables(tables: Mapping[str, Sequence[Row]]) -> str:
    """As Markdown: mean, and lowest and highest where there is more than one."""
    lines = []
    for title, rows in tables.items():
        if not rows:
            continue
        columns = list(rows[0].columns)
        lines += [f"### {title}", "", f"| | {' | '.join(columns)} | runs |", "|---|" + "---|" * (len(columns) + 1)]
        for row in rows:
            cells = [_spread(row.columns[column]) for column in columns]
            lines.append(f"| {row.name} | {' | '.join(cells)} | {len(row.columns[columns[0]])} |")
        lines.append("")
    return "\n".join(lines)


def _spread(values: Sequence[float]) -> str:
    mean = f"{statistics.mean(values):.1f}"
    return mean if len(values) == 1 else f"{mean} ({min(values):.1f} to {max(values):.1f})"


def _row_of(pattern: str, cell: Cell) -> str | None:
    """The name of the row that a cell belongs to: its own starts with the pattern, filled in."""
    if any(name not in cell.values for name in FIELD.findall(pattern)):
        return None
    name = fill(pattern, cell.values)
    return name if cell.name == name or cell.name.startswith(f"{name}-") else None


def _look_up(result: Any, path: str, cell: str) -> float:
    factor, _, path = path.rpartition(" * ")
    value = result
    for key in path.split("."):
        try:
            value = value[int(key)] if isinstance(value, list) else value[key]
        except (KeyError, IndexError, TypeError, ValueError):
            raise ValueError(f"the result of {cell} has no {path!r} (at {key!r})") from None
    return float(factor or 1) * float(value)
