"""A process that is killed at any point of a save, a conversion or a deletion leaves a sound checkpoint, and the next
one clears up."""

import os
import shutil
import signal
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from stoa.training import saving, states
from stoa.training.checkpoint import damage, newest, steps_in
from stoa.training.saving import copy, prune, save_weights

WEIGHTS = {"weight": torch.arange(4.0)}


def write(folder: Path, step: int, keep: int = 2) -> Path:
    """What :func:`saving.begin` makes, and the rest of a save by one process."""
    temporary = saving._begin(folder / f"step-{step:08d}", 100)
    (temporary / "states").mkdir(parents=True)
    moments = {f"{name}:{step}:0:weight": torch.full((4,), float(step)) for name in ("exp_avg", "exp_avg_sq")}
    taken = states.Taken(0, 1, {"files": 1}, moments)
    return saving.write(saving.Content(taken, WEIGHTS, {"step": step}), temporary, keep=keep)


def killed_at(point: int, folder: Path, work: Callable[[], object]) -> bool:
    """Do the work in a process that is killed before the ``point``-th time that it opens, makes, renames or deletes
    something in the folder; whether it was."""
    seen = 0

    def count(event: str, arguments: tuple) -> None:
        nonlocal seen
        of_files = event == "open" or event.startswith(("os.", "shutil."))
        if of_files and any(str(folder) in str(argument) for argument in arguments):
            seen += 1
            if seen == point:
                os.kill(os.getpid(), signal.SIGKILL)

    child = os.fork()
    if child == 0:
        try:
            sys.addaudithook(count)
            work()
            os._exit(0)
        except BaseException:
            os._exit(1)
    status = os.waitpid(child, 0)[1]
    assert os.WIFSIGNALED(status) or os.WEXITSTATUS(status) == 0
    return os.WIFSIGNALED(status)


def look(folder: Path, at_least: int) -> None:
    """There is a sound one, not older than it was, and none that counts is damaged."""
    found = newest(folder)
    assert found is not None and int(found.name.removeprefix("step-")) >= at_least
    assert [path for path in steps_in(folder) if damage(path) is not None] == []


WORK: dict[str, Callable[[Path], Callable[[], object]]] = {
    "a save": lambda folder: lambda: write(folder, 15),
    "a save of a step that is there": lambda folder: lambda: write(folder, 10),
    "a save that keeps one": lambda folder: lambda: write(folder, 15, keep=1),
    "better weights": lambda folder: lambda: save_weights(WEIGHTS, folder, 15, {}),
    "a copy": lambda folder: lambda: copy(folder.parent / "other" / "step-00000020", folder, {"step": 20}),
    "a deletion": lambda folder: lambda: prune(folder, 1),
}


@pytest.mark.parametrize("every", [7, pytest.param(1, marks=pytest.mark.slow)])
@pytest.mark.parametrize("what", WORK)
def test_killed_anywhere(tmp_path, what, every):
    made = tmp_path / "made"
    write(made, 5)
    write(made, 10)
    write(tmp_path / "other", 20)
    point = 0
    while True:
        point += every
        folder = tmp_path / "checkpoints"
        shutil.copytree(made, folder)
        work = WORK[what](folder)
        killed = killed_at(point, folder, work)
        # A step that is written once more is out of the way for a moment; the one before it is there.
        look(folder, 5 if what == "a save of a step that is there" else 10)
        work()
        look(folder, 10)
        assert list(folder.glob("*.tmp")) == []
        shutil.rmtree(folder)
        if not killed:
            break
    assert point > 10
