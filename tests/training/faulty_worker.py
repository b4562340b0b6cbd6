"""train.py with a fault planted in one step: ``faulty_worker.py gradient|log|error STEP ...``."""

import errno
import itertools
import sys
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parents[2]))

import train  # noqa: E402
from stoa import run  # noqa: E402
from stoa.cli._errors import run_and_leave  # noqa: E402
from stoa.training.metrics import MetricsLog  # noqa: E402
from stoa.training.trainer import Trainer  # noqa: E402


def plant_gradient(planted_step: int) -> None:
    """The gradient of one weight is infinite."""
    build_optimizer, steps = run.build_optimizer, itertools.count(1)

    def planted(objective, config):
        objective.model.clip.visual.proj.register_hook(
            lambda grad: torch.full_like(grad, torch.inf) if next(steps) == planted_step else grad
        )
        return build_optimizer(objective, config)

    run.build_optimizer = planted


def plant_log(planted_step: int) -> None:
    """The disk of the log is full from this step on."""
    write = MetricsLog.write

    def planted(self, step, values):
        if step >= planted_step:
            raise OSError(errno.ENOSPC, "No space left on device")
        write(self, step, values)

    MetricsLog.write = planted


def plant_error(planted_step: int) -> None:
    """An error of ours."""
    train_step, steps = Trainer._train_step, itertools.count(1)

    def planted(self, batches):
        if next(steps) == planted_step:
            raise RuntimeError("planted")
        return train_step(self, batches)

    Trainer._train_step = planted


if __name__ == "__main__":
    {"gradient": plant_gradient, "log": plant_log, "error": plant_error}[sys.argv.pop(1)](int(sys.argv.pop(1)))
    run_and_leave(train.train)
