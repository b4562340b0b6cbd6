"""train.py with a fault planted in one step: ``faulty_worker.py gradient|log|disk|error STEP ...``."""

import errno
import itertools
import resource
import signal
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


def plant_disk(planted_step: int) -> None:
    """From this step on no file may grow beyond 4 MB: to DeepSpeed the disk is full."""
    save = Trainer.save

    def planted(self, *arguments):
        if self.step >= planted_step:
            signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
            resource.setrlimit(resource.RLIMIT_FSIZE, (4_000_000, resource.RLIM_INFINITY))
        save(self, *arguments)

    Trainer.save = planted


def plant_error(planted_step: int) -> None:
    """An error of ours."""
    train_step, steps = Trainer.train_step, itertools.count(1)

    def planted(self, batches):
        if next(steps) == planted_step:
            raise RuntimeError("planted")
        return train_step(self, batches)

    Trainer.train_step = planted


if __name__ == "__main__":
    plant = {"gradient": plant_gradient, "log": plant_log, "disk": plant_disk, "error": plant_error}[sys.argv.pop(1)]
    plant(int(sys.argv.pop(1)))
    run_and_leave(train.train)
