"""Many runs that differ in a few values: each cell trains, evaluates and leaves a result, and is not run again.

A plan is a YAML file::

    out: runs/ablation               # a folder a cell, and its result <cell>.json beside it
    matrix: {recipe: [base, stoa], seed: [0, 1]}
    passes: seed                     # optional: all cells of the first seed, then all of the next
    gpus: 1                          # optional: of a cell; without it, all there are, or a worker's share of them
    cells:                           # in order; {recipe}, {seed}, {out} are filled in, once for every combination
      pretrain-{recipe}-{seed}:
        - train.py --recipe recipes/{recipe}.yaml --training.seed {seed} --training.output_dir {out}/{recipe}-{seed} ...
        - stoa evaluate --run {out}/{recipe}-{seed} --manifest data/test.jsonl ...
    tables:                          # what to print of the results: means and spreads over all that a row does not name
      retrieval:
        rows: pretrain-{recipe}
        values: {R@1: evaluate.retrieval.trained.itc.text-to-video.r1}      # or 100 * path; a list is the mean of all

A cell names only the values it differs in; one without ``{...}`` is run once. ``train.py`` and ``stoa finetune`` are
started by DeepSpeed's launcher where a cell has several GPUs. ``stoa evaluate`` writes its report into the result, as
``evaluate``, or by the name that ``--as NAME`` gives at its end: two of a cell need two names.
"""

from __future__ import annotations

import itertools
import re
import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stoa.arguments.given import text_of
from stoa.arguments.kinds import kind_of
from stoa.arguments.yaml_text import load_yaml
from stoa.fields import name_of, show

_KEYS = {"out", "matrix", "passes", "gpus", "cells", "tables"}
_VALUE = re.compile(r"(\d+(?:\.\d+)? \* )?[^\s*]+")
FIELD = re.compile(r"\{(\w+)\}")
Values = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Cell:
    """One entry of a plan. ``values`` are those of the matrix that it names."""

    name: str
    values: dict[str, Any]
    commands: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Plan:
    """See the module."""

    out: Path
    cells: tuple[Cell, ...]
    tables: dict[str, dict[str, Any]]
    gpus: int | None = None

    def result(self, cell: Cell) -> Path:
        return self.out / f"{cell.name}.json"

    def unfinished(self) -> list[Cell]:
        return [cell for cell in self.cells if not self.result(cell).is_file()]


def read_plan(path: Path) -> Plan:
    """Read a plan and fill in its cells.

    Raises:
        ValueError: the file is missing or malformed, a key or a field is unknown, or two cells, or two reports of a
            cell, have one name.
    """
    name = f"plan {path}"
    try:
        raw = load_yaml(text_of(path, name, (".yaml", ".yml"), "recipes"))
        if (kind := kind_of(raw)) is not None and kind.option != "plan":
            raise ValueError(f"it is {kind.what}; {kind.where}")
        return _plan(raw)
    except ValueError as error:
        told = str(error)
        raise ValueError(told if told.startswith(name) else f"{name}: {told}") from None


def _plan(raw: Any) -> Plan:
    if not isinstance(raw, dict) or not isinstance(raw.get("cells"), dict) or "out" not in raw:
        raise ValueError("'out' or 'cells' is missing; see stoa/tasks/ablation/plan.py for the form")
    if unknown := sorted(map(str, raw.keys() - _KEYS)):
        raise ValueError(f"key {show(unknown[0])} has no meaning here; the keys are {sorted(_KEYS)}")
    out = name_of(raw["out"], "out", "it")
    matrix = {field: _choices(field, choices) for field, choices in _object(raw, "matrix").items()}
    tables = {str(title): _table(title, table) for title, table in _object(raw, "tables").items()}
    cells: dict[str, Cell] = {}
    for template, commands in raw["cells"].items():
        template = name_of(template, "the name of a cell", "cells")
        if not isinstance(commands, list) or not all(isinstance(command, str) for command in commands):
            raise ValueError(f"cell {template!r} is {show(commands)}; expected a list of commands")
        for values in _combinations(f"{template} {' '.join(commands)}", matrix):
            fields = {**values, "out": out}
            cell = Cell(fill(template, fields), values, tuple(fill(command, fields) for command in commands))
            if cell.name in cells:
                raise ValueError(f"two cells are named {cell.name!r}; name in it what they differ in")
            reports = [report for _, report in map(split_command, cell.commands) if report is not None]
            for report in reports:
                if reports.count(report) > 1:
                    raise ValueError(f"two reports of cell {cell.name!r} are named {report!r}; add --as NAME to one")
            cells[cell.name] = cell
    order, passes = list(cells.values()), raw.get("passes")
    if passes is not None:
        if not isinstance(passes, str) or passes not in matrix:
            raise ValueError(f"passes is {show(passes)}, which is not in its matrix ({', '.join(matrix)})")
        order.sort(key=lambda cell: matrix[passes].index(cell.values[passes]) if passes in cell.values else 0)
    gpus = raw.get("gpus")
    if gpus is not None and (type(gpus) is not int or gpus < 1):
        raise ValueError(f"gpus is {show(gpus)}; expected how many a cell trains on, at least 1")
    return Plan(Path(out), tuple(order), tables, gpus)


def _object(raw: dict[str, Any], key: str) -> dict[Any, Any]:
    value = {} if raw.get(key) is None else raw[key]
    if not isinstance(value, dict):
        raise ValueError(f"{key} is {show(value)}; expected names with values")
    return value


def _choices(field: Any, choices: Any) -> list[Any]:
    if not isinstance(field, str) or not FIELD.fullmatch(f"{{{field}}}"):
        raise ValueError(f"matrix: {show(field)} is no name; expected one of letters, digits and _")
    if not isinstance(choices, list) or not all(isinstance(choice, str | int | float) for choice in choices):
        raise ValueError(f"matrix: {field} is {show(choices)}; expected a list of names or numbers")
    return choices


def _table(title: Any, table: Any) -> dict[str, Any]:
    if not isinstance(table, dict) or table.keys() != {"rows", "values"} or not isinstance(table["values"], dict):
        raise ValueError(f"table {show(title)} needs 'rows', a name, and 'values', paths by column")
    name_of(table["rows"], "rows", f"table {show(title)}")
    for column, paths in table["values"].items():
        for value in [paths] if isinstance(paths, str) else paths if isinstance(paths, list) else [None]:
            if not isinstance(value, str) or not _VALUE.fullmatch(value):
                raise ValueError(
                    f"table {show(title)}, column {show(column)} is {show(paths)}; expected a path such as "
                    "evaluate.captioning.cider, or 100 * such a path, or a list of them"
                )
    return table


def split_command(command: str) -> tuple[list[str], str | None]:
    """The words of a command, and the name of the report that it leaves, if it does."""
    try:
        words = shlex.split(command)
    except ValueError as error:
        raise ValueError(f"command {show(command)}: {str(error).lower()}") from None
    if "--as" in words[:-1]:
        at = words.index("--as")
        return words[:at] + words[at + 2 :], words[at + 1]
    return words, "evaluate" if words[:2] == ["stoa", "evaluate"] else None


def _combinations(text: str, matrix: Mapping[str, Sequence[Any]]) -> Iterator[dict[str, Any]]:
    names = [name for name in dict.fromkeys(FIELD.findall(text)) if name != "out"]
    for name in names:
        if name not in matrix:
            raise ValueError(f"{{{name}}} is not in its matrix ({', '.join(matrix) or 'which is empty'})")
    for values in itertools.product(*(matrix[name] for name in names)):
        yield dict(zip(names, values, strict=True))


def fill(text: str, values: Values) -> str:
    return FIELD.sub(lambda match: str(values[match[1]]), text)
