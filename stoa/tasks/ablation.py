"""Many runs that differ in a few values: each cell trains, evaluates and leaves a result, and is not run again.

A plan is a YAML file::

    out: runs/ablation               # a folder a cell, and its result <cell>.json beside it
    matrix: {recipe: [base, stoa], seed: [0, 1]}
    passes: seed                     # optional: all cells of the first seed, then all of the next
    cells:                           # in order; {recipe}, {seed}, {out} are filled in, once for every combination
      pretrain-{recipe}-{seed}:
        - train.py --recipe recipes/{recipe}.yaml --training.seed {seed} --training.output_dir {out}/{recipe}-{seed} ...
        - stoa evaluate --run {out}/{recipe}-{seed} --manifest data/test.jsonl ...
    tables:                          # what to print of the results: means and spreads over all that a row does not name
      retrieval:
        rows: pretrain-{recipe}
        values: {R@1: evaluate.retrieval.trained.itc.text-to-video.r1}      # or 100 * path; a list is the mean of all

A cell names only the values it differs in; one without ``{...}`` is run once. On a machine with GPUs ``train.py`` and
``stoa finetune`` are started by DeepSpeed's launcher. ``stoa evaluate`` writes its report into the cell's result.
"""

from __future__ import annotations

import itertools
import json
import os
import re
import shlex
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from stoa.files import write_whole
from stoa.training.state import commit, versions

_KEYS = {"out", "matrix", "passes", "cells", "tables"}
_VALUE = re.compile(r"(\d+(?:\.\d+)? \* )?[^\s*]+")
_FIELD = re.compile(r"\{(\w+)\}")
Values = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Cell:
    """One entry of a plan. ``values`` are those of the matrix that it names."""

    name: str
    values: dict[str, Any]
    commands: tuple[str, ...]


class Row(NamedTuple):
    """Of a table: its name, and per column the values of the cells it stands for."""

    name: str
    columns: dict[str, list[float]]


@dataclass(frozen=True, slots=True)
class Plan:
    """See the module."""

    out: Path
    cells: tuple[Cell, ...]
    tables: dict[str, dict[str, Any]]

    def result(self, cell: Cell) -> Path:
        return self.out / f"{cell.name}.json"

    def unfinished(self) -> list[Cell]:
        return [cell for cell in self.cells if not self.result(cell).is_file()]


def read_plan(path: Path) -> Plan:
    """Read a plan and fill in its cells.

    Raises:
        ValueError: the file is missing or malformed, a key or a field is unknown, or two cells have one name.
    """
    try:
        raw = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ValueError(f"plan {path} cannot be read ({error.strerror})") from None
    except yaml.YAMLError as error:
        raise ValueError(f"plan {path}: not valid YAML ({' '.join(str(error).split())})") from None
    if not isinstance(raw, dict) or not isinstance(raw.get("cells"), dict) or "out" not in raw:
        raise ValueError(f"plan {path}: 'out' or 'cells' is missing; see stoa/tasks/ablation.py for the form")
    unknown = sorted(raw.keys() - _KEYS)
    if unknown:
        raise ValueError(f"plan {path}: key {unknown[0]!r} has no meaning here; the keys are {sorted(_KEYS)}")
    matrix = {name: list(values) for name, values in (raw.get("matrix") or {}).items()}
    for name, commands in raw["cells"].items():
        if not isinstance(commands, list) or not all(isinstance(command, str) for command in commands):
            raise ValueError(f"plan {path}: cell {name!r} is {commands!r}; expected a list of commands")
    for title, table in (raw.get("tables") or {}).items():
        if not isinstance(table, dict) or table.keys() != {"rows", "values"} or not isinstance(table["values"], dict):
            raise ValueError(f"plan {path}: table {title!r} needs 'rows', a name, and 'values', paths by column")
        for column, paths in table["values"].items():
            for value in [paths] if isinstance(paths, str) else paths if isinstance(paths, list) else [None]:
                if not isinstance(value, str) or not _VALUE.fullmatch(value):
                    raise ValueError(
                        f"plan {path}: table {title!r}, column {column!r} is {paths!r}; expected a path such as "
                        "evaluate.captioning.cider, or 100 * such a path, or a list of them"
                    )
    cells: dict[str, Cell] = {}
    for name, commands in raw["cells"].items():
        for values in _combinations(f"{name} {' '.join(commands)}", matrix, str(path)):
            fields = {**values, "out": raw["out"]}
            cell = Cell(_fill(name, fields), values, tuple(_fill(command, fields) for command in commands))
            if cell.name in cells:
                raise ValueError(f"plan {path}: two cells are named {cell.name!r}; name in it what they differ in")
            cells[cell.name] = cell
    order, passes = list(cells.values()), raw.get("passes")
    if passes is not None:
        if passes not in matrix:
            raise ValueError(f"plan {path}: passes is {passes!r}, which is not in its matrix ({', '.join(matrix)})")
        order.sort(key=lambda cell: matrix[passes].index(cell.values[passes]) if passes in cell.values else 0)
    return Plan(Path(raw["out"]), tuple(order), raw.get("tables") or {})


def run_plan(plan: Plan, *, only: str = "*", workers: int = 1, say: Callable[[str], None]) -> None:
    """Run what is unfinished, in order. A training that was interrupted goes on where it was.

    Args:
        only: pattern of the names of the cells to run, as of a shell.
        workers: cells run at once, each with its share of the cores. A cell waits for those before it whose folder it
            names; one that is run once, for all values, has the machine for itself.
        say: called with a line on what is done.

    Raises:
        ValueError: a cell names the folder of one that is neither finished nor to be run, or a command fails; the cells
            that run beside it are finished, and no other is begun.
    """
    if not any(fnmatchcase(cell.name, only) for cell in plan.cells):
        raise ValueError(f"no cell of the plan is named like {only!r}; they are {plan.cells[0].name!r} and others")
    waiting = [cell for cell in plan.unfinished() if fnmatchcase(cell.name, only)]
    for cell, other in itertools.product(waiting, plan.unfinished()):
        if other not in waiting and _names(cell, other, plan.out):
            raise ValueError(
                f"cell {cell.name} reads {plan.out / other.name}, and cell {other.name} is not finished; run that one "
                f"first: --only {other.name}"
            )
    say(f"{len(waiting)} of {len(plan.cells)} cells to run")
    plan.out.mkdir(parents=True, exist_ok=True)
    share = {"OMP_NUM_THREADS": str(max(1, (os.cpu_count() or 1) // workers))} if workers > 1 else {}
    running: dict[Future[float], Cell] = {}
    failure: BaseException | None = None
    with ThreadPoolExecutor(workers) as pool:
        while running or (waiting and failure is None):
            for cell in list(waiting) if failure is None else []:
                before = [*running.values(), *waiting[: waiting.index(cell)]]
                if len(running) < workers and not any(_waits_for(cell, other, plan.out) for other in before):
                    waiting.remove(cell)
                    running[pool.submit(_run_cell, plan, cell, share if cell.values else {}, say)] = cell
            for future in wait(running, return_when=FIRST_COMPLETED).done:
                cell = running.pop(future)
                failure = failure or future.exception()
                if future.exception() is None:
                    say(f"{cell.name}: {future.result() / 60:.1f} min, {len(waiting) + len(running)} cells left")
    if failure is not None:
        raise failure


def _waits_for(cell: Cell, other: Cell, out: Path) -> bool:
    return not cell.values or not other.values or _names(cell, other, out)


def _names(cell: Cell, other: Cell, out: Path) -> bool:
    """Whether a command of the cell names the other's folder."""
    folder = re.compile(rf"{re.escape(str(out / other.name))}(?![\w-])")
    return any(folder.search(command) for command in cell.commands)


def _run_cell(plan: Plan, cell: Cell, environment: Mapping[str, str], say: Callable[[str], None]) -> float:
    """Run all commands and write the result; seconds it took, with those of calls before that did not reach its end."""
    spent = plan.out / f"{cell.name}.seconds"
    before, begun = float(spent.read_text()) if spent.is_file() else 0.0, time.perf_counter()
    reports: dict[str, Any] = {}
    try:
        for command in cell.commands:
            reports |= _run(command, plan.out, cell.name, environment, say)
    finally:
        seconds = before + time.perf_counter() - begun
        write_whole(spent, f"{seconds}\n")
    result = {
        "cell": cell.name,
        "values": cell.values,
        "commands": cell.commands,
        "seconds": round(seconds, 1),
        "commit": commit(),
        "versions": versions(),
        **reports,
    }
    write_whole(plan.result(cell), json.dumps(result, indent=2) + "\n")
    spent.unlink()
    return seconds


def tabulate(plan: Plan) -> dict[str, list[Row]]:
    """The tables of what is finished.

    Raises:
        ValueError: a table asks for what the results do not hold.
    """
    results = {c.name: (c, json.loads(plan.result(c).read_text())) for c in plan.cells if plan.result(c).is_file()}
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


def _combinations(text: str, matrix: Mapping[str, Sequence[Any]], path: str) -> Iterator[dict[str, Any]]:
    names = [name for name in dict.fromkeys(_FIELD.findall(text)) if name != "out"]
    for name in names:
        if name not in matrix:
            raise ValueError(f"plan {path}: {{{name}}} is not in its matrix ({', '.join(matrix) or 'which is empty'})")
    for values in itertools.product(*(matrix[name] for name in names)):
        yield dict(zip(names, values, strict=True))


def _fill(text: str, values: Values) -> str:
    return _FIELD.sub(lambda match: str(values[match[1]]), text)


def _row_of(pattern: str, cell: Cell) -> str | None:
    """The name of the row that a cell belongs to: its own starts with the pattern, filled in."""
    if any(name not in cell.values for name in _FIELD.findall(pattern)):
        return None
    name = _fill(pattern, cell.values)
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


def _run(
    command: str, out: Path, cell: str, environment: Mapping[str, str], say: Callable[[str], None]
) -> dict[str, Any]:
    """Run a command; the report of an evaluation, by the name that ``--as`` gives it or ``evaluate``."""
    words, name = shlex.split(command), "evaluate"
    if "--as" in words:
        at = words.index("--as")
        name, words = words[at + 1], words[:at] + words[at + 2 :]
    report = out / f"{cell}.{name}.report.json"
    if words[0] == "train.py":
        words = ["deepspeed", *words] if _has_gpus() else [sys.executable, *words]
    elif words[:2] == ["stoa", "evaluate"]:
        words = [sys.executable, "-m", "stoa.cli", *words[1:], "--out", str(report)]
    elif words[:2] == ["stoa", "finetune"] and _has_gpus():
        words = ["deepspeed", "--module", "stoa.cli", *words[1:]]
    elif words[0] == "stoa":
        words = [sys.executable, "-m", "stoa.cli", *words[1:]]
    say(f"{cell}: {shlex.join(words)}")
    done = subprocess.run(words, check=False, env=os.environ | environment)
    if done.returncode:
        raise ValueError(f"cell {cell}: {shlex.join(words)} ended with status {done.returncode}")
    return {name: json.loads(report.read_text())} if report.is_file() else {}


def _has_gpus() -> bool:
    import torch

    return torch.cuda.is_available()
