"""The cells of a plan, run where they are unfinished."""

from __future__ import annotations

import itertools
import json
import os
import re
import shlex
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from stoa.files import write_whole
from stoa.locks import only_writer_of
from stoa.tasks.ablation.plan import Cell, Plan, split_command
from stoa.text_files import read_own
from stoa.training.state import commit, versions


def run_plan(plan: Plan, *, only: str = "*", skip: str = "", workers: int = 1, say: Callable[[str], None]) -> None:
    """Run what is unfinished, in order. A training that was interrupted goes on where it was.

    Args:
        only: pattern of the names of the cells to run, as of a shell.
        skip: of those that are not.
        workers: cells run at once, each with its share of the cores and GPUs. A cell waits for those before it whose
            folder it names; one that is run once, for all values, has the machine for itself.
        say: called with a line on what is done.

    Raises:
        ValueError: a result was made by other commands than the plan has now, a cell names the folder of one that is
            neither finished nor to be run, there are fewer GPUs than the plan asks for, or a command fails; the cells
            that run beside it are finished, and no other is begun.
    """
    _require_same_commands(plan)
    if not any(fnmatchcase(cell.name, only) for cell in plan.cells):
        raise ValueError(f"no cell of the plan is named like {only!r}; they are {plan.cells[0].name!r} and others")
    wanted = [cell for cell in plan.unfinished() if fnmatchcase(cell.name, only)]
    waiting = [cell for cell in wanted if not fnmatchcase(cell.name, skip)]
    for cell, other in itertools.product(waiting, plan.unfinished()):
        if other not in waiting and _names(cell, other, plan.out):
            raise ValueError(
                f"cell {cell.name} reads {plan.out / other.name}, and cell {other.name} is not finished; run that one "
                f"first: --only {other.name}"
            )
    say(f"{len(waiting)} of {len(plan.cells)} cells to run")
    plan.out.mkdir(parents=True, exist_ok=True)
    cores = {"OMP_NUM_THREADS": str(max(1, (os.cpu_count() or 1) // workers))} if workers > 1 else {}
    alone, *shares = gpu_shares(visible_gpus(), 1, plan.gpus) + gpu_shares(visible_gpus(), workers, plan.gpus)
    running: dict[Future[float], tuple[Cell, list[str]]] = {}
    failure: BaseException | None = None
    with ThreadPoolExecutor(workers) as pool:
        while running or (waiting and failure is None):
            for cell in list(waiting) if failure is None else []:
                before = [*(other for other, _ in running.values()), *waiting[: waiting.index(cell)]]
                if len(running) < workers and not any(_waits_for(cell, other, plan.out) for other in before):
                    waiting.remove(cell)
                    share = shares.pop()
                    own = (cores, share) if cell.values else ({}, alone)
                    running[pool.submit(_run_cell, plan, cell, *own, say)] = cell, share
            for future in wait(running, return_when=FIRST_COMPLETED).done:
                cell, share = running.pop(future)
                shares.append(share)
                failure = failure or future.exception()
                if future.exception() is None:
                    say(f"{cell.name}: {future.result() / 60:.1f} min, {len(waiting) + len(running)} cells left")
    if failure is not None:
        raise failure


def _require_same_commands(plan: Plan) -> None:
    """What is finished stays, and goes into one table with what is run now."""
    for cell in plan.cells:
        if plan.result(cell).is_file():
            made_by = read_own(plan.result(cell), ("commands",), "delete it, and its cell is run again")["commands"]
            if made_by != list(cell.commands):
                raise ValueError(
                    f"{plan.result(cell)} was made by other commands than the plan has now for {cell.name}; delete it "
                    f"and {plan.out / cell.name} to run that again, or give the plan another out"
                )


def _waits_for(cell: Cell, other: Cell, out: Path) -> bool:
    return not cell.values or not other.values or _names(cell, other, out)


def _names(cell: Cell, other: Cell, out: Path) -> bool:
    """Whether a command of the cell names the other's folder."""
    folder = re.compile(rf"{re.escape(str(out / other.name))}(?![\w-])")
    return any(folder.search(command) for command in cell.commands)


def visible_gpus() -> list[str]:
    """Names of this machine's GPUs that may be used, as CUDA_VISIBLE_DEVICES has them."""
    import torch

    count, named = torch.cuda.device_count(), os.environ.get("CUDA_VISIBLE_DEVICES")
    return [str(number) for number in range(count)] if named is None else named.split(",")[:count]


def gpu_shares(gpus: Sequence[str], workers: int, each: int | None) -> list[list[str]]:
    """The GPUs of each worker: so many, or equal parts of all; where they do not go round, workers share some.

    Raises:
        ValueError: there are some, and fewer than a worker is to have.
    """
    if gpus and each is not None and each > len(gpus):
        raise ValueError(f"the plan's gpus is {each} and there are {len(gpus)} here ({', '.join(gpus)}); lower it")
    size = min(len(gpus), each or max(1, len(gpus) // workers))
    return [[gpus[(worker * size + i) % len(gpus)] for i in range(size)] for worker in range(workers)]


def _run_cell(
    plan: Plan, cell: Cell, environment: Mapping[str, str], gpus: Sequence[str], say: Callable[[str], None]
) -> float:
    """Run all commands and write the result; seconds it took, with those of calls before that did not reach its end."""
    environment = {**environment, "CUDA_VISIBLE_DEVICES": ",".join(gpus)} if gpus else environment
    spent = plan.out / f"{cell.name}.seconds"
    with only_writer_of(plan.result(cell), "out in the plan"):
        if plan.result(cell).is_file():  # by another call, since this one began
            return 0.0
        return _run_alone(plan, cell, environment, len(gpus), spent, say)


def _run_alone(
    plan: Plan, cell: Cell, environment: Mapping[str, str], gpus: int, spent: Path, say: Callable[[str], None]
) -> float:
    before, begun = float(spent.read_text()) if spent.is_file() else 0.0, time.perf_counter()
    reports: dict[str, Any] = {}
    try:
        for command in cell.commands:
            reports |= _run(command, plan.out, cell.name, environment, gpus, say)
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


def _run(
    command: str, out: Path, cell: str, environment: Mapping[str, str], gpus: int, say: Callable[[str], None]
) -> dict[str, Any]:
    """Run a command; the report that it leaves, by name."""
    words, name = split_command(command)
    report = out / f"{cell}.{name}.report.json"
    if words[0] in ("train.py", "stoa"):
        words = ["train", *words[1:]] if words[0] == "train.py" else words[1:]
        # Each launch its own port: others run beside it.
        launcher = ["deepspeed", "--master_port", str(_free_port()), "--module", "stoa.cli"]
        launched = launcher if gpus > 1 and words[0] in ("train", "finetune") else [sys.executable, "-m", "stoa.cli"]
        words = [*launched, *words, *(["--out", str(report)] if words[0] == "evaluate" else [])]
    say(f"{cell}: {shlex.join(words)}")
    done = subprocess.run(words, check=False, env=os.environ | environment)
    if done.returncode:
        raise ValueError(f"cell {cell}: {shlex.join(words)} ended with status {done.returncode}")
    return {} if name is None else {name: json.loads(report.read_text())}


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("", 0))
        return int(probe.getsockname()[1])
