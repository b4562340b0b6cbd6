"""A step of the check: a command in a session of its own, with a limit. Its result is a file as soon as it ends."""

from __future__ import annotations

import contextlib
import ctypes
import datetime
import importlib.util
import json
import os
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
_KEPT_CHARACTERS = 20_000  # of what a step prints
_PR_SET_PDEATHSIG = 1


@dataclass(frozen=True)
class Step:
    """
    Attributes:
        name: what it checks.
        command: to run in the root of the tree.
        limit: seconds after which it is killed.
        modules: that it imports; without one of them it is not run.
        tools: programs that it calls, likewise.
        files: that it reads, likewise.
        report: JSON file that it writes, kept in its result.
        environment: added to that of the check.
    """

    name: str
    command: tuple[str, ...]
    limit: int
    modules: tuple[str, ...] = ()
    tools: tuple[str, ...] = ()
    files: tuple[Path, ...] = ()
    report: Path | None = None
    environment: Mapping[str, str] = field(default_factory=dict)


def missing(step: Step) -> str:
    """The first module, tool or file that this machine lacks for a step, or nothing."""
    absent = [module for module in step.modules if not importable(module)]
    absent += [tool for tool in step.tools if shutil.which(tool) is None]
    absent += [str(file) for file in step.files if not file.exists()]
    return absent[0] if absent else ""


def importable(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:  # of a parent package
        return False


def file_of(out: Path, part: int, step: Step) -> Path:
    """Where the result of a step is kept."""
    return out / f"{part}-{re.sub(r'[^a-z0-9]+', '-', step.name.lower()).strip('-')}.json"


def run(part: int, step: Step, out: Path, *, why_not: str = "", facts: Mapping[str, Any]) -> dict[str, Any]:
    """Run a step, print what it printed, write its result.

    Args:
        part: that it belongs to.
        step: to run.
        out: folder of the results. While the step runs its output is there too, in a file named as its result.
        why_not: a reason not to run it.
        facts: JSON-able, of the machine; kept in the result.

    Returns:
        the result; ``outcome`` is passed, failed or not run, ``note`` the reason or the last line printed.
    """
    print(f"\n== {part} {step.name}", flush=True)
    result: dict[str, Any] = {"part": part, "name": step.name}
    path, lacks = file_of(out, part, step), missing(step)
    if why_not or lacks:
        result |= {"outcome": "not run", "seconds": 0.0, "note": why_not or f"{lacks} is missing", "output": ""}
    else:
        result |= _run(step, path.with_suffix(".log"))
    print(result["output"] or result["note"], flush=True)
    report = None
    if step.report is not None and step.report.is_file():
        report = json.loads(step.report.read_text())
    result |= {"report": report, "time": datetime.datetime.now().isoformat(timespec="seconds"), **facts}
    temporary = path.with_suffix(".tmp")
    temporary.write_text(json.dumps(result, indent=2) + "\n")
    temporary.replace(path)
    path.with_suffix(".log").unlink(missing_ok=True)
    return result


def _run(step: Step, log: Path) -> dict[str, Any]:
    started, late = time.perf_counter(), False
    with open(log, "wb") as output, session(step.command, step.environment, output) as process:
        try:
            process.wait(step.limit)
        except subprocess.TimeoutExpired:
            late = True
    printed = log.read_text(errors="replace")
    lines = [line for line in printed.splitlines() if line.strip()]
    return {
        "outcome": "failed" if late or process.returncode else "passed",
        "seconds": time.perf_counter() - started,
        "note": f"killed after {step.limit} s" if late else (lines[-1] if lines else "")[:160],
        "output": printed[-_KEPT_CHARACTERS:],
    }


@contextlib.contextmanager
def session(
    command: tuple[str, ...] | list[str], environment: Mapping[str, str], output: Any
) -> Iterator[subprocess.Popen[bytes]]:
    """A command and all that it starts, which end with the block, and with this process however it ends. A pipe would
    be held by what the command leaves behind, so output goes to a file."""
    process = subprocess.Popen(
        command,
        cwd=ROOT,
        env={**os.environ, "PYTHONUNBUFFERED": "1", **environment},
        stdin=subprocess.DEVNULL,
        stdout=output,
        stderr=subprocess.STDOUT,
        start_new_session=True,
        preexec_fn=_die_with_parent,
    )
    try:
        yield process
    finally:
        with contextlib.suppress(ProcessLookupError):  # nothing is left of it
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _die_with_parent() -> None:
    """In a session of its own the command would outlive whoever kills the check, and hold the GPU."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
