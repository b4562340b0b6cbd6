"""train.py with a fault planted in one step, of the last rank where it is one of a rank:
``faulty_worker.py FAULT STEP`` and the arguments of train.py."""

import errno
import itertools
import resource
import signal
import sys
import threading
from pathlib import Path
from types import SimpleNamespace

import torch

sys.path.insert(0, str(Path(__file__).parents[2]))

import train  # noqa: E402
from stoa import run  # noqa: E402
from stoa.cli._errors import run_and_leave  # noqa: E402
from stoa.objectives.gather import rank, world_size  # noqa: E402
from stoa.objectives.total import TrainingObjective  # noqa: E402
from stoa.training import saving  # noqa: E402
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


def plant_loss(planted_step: int, factor: float = torch.nan) -> None:
    """The loss of one rank is none."""
    forward, steps = TrainingObjective.forward, itertools.count(1)

    def planted(self, batch, step):
        loss, scalars = forward(self, batch, step)
        if next(steps) == planted_step and rank() == world_size() - 1:
            return loss * factor, {**scalars, "loss": scalars["loss"] * factor}
        return loss, scalars

    TrainingObjective.forward = planted


def plant_spike(planted_step: int) -> None:
    """The loss stands out."""
    plant_loss(planted_step, factor=50.0)


def plant_weight(planted_step: int) -> None:
    """A weight is none behind this step."""
    train_step = Trainer.train_step

    def planted(self, batches):
        record = train_step(self, batches)
        if self.step == planted_step:
            self.objective.model.clip.visual.proj.data.fill_(torch.nan)
        return record

    Trainer.train_step = planted


def plant_log(planted_step: int) -> None:
    """The disk of the log is full from this step on."""
    write = MetricsLog.write

    def planted(self, step, values):
        if step >= planted_step:
            raise OSError(errno.ENOSPC, "No space left on device")
        write(self, step, values)

    MetricsLog.write = planted


def plant_disk(planted_step: int) -> None:
    """From this step on no file may grow beyond 4 MB: the disk is full."""
    save = Trainer.save

    def planted(self, *arguments, **options):
        if self.step >= planted_step:
            signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
            resource.setrlimit(resource.RLIMIT_FSIZE, (4_000_000, resource.RLIM_INFINITY))
        save(self, *arguments, **options)

    Trainer.save = planted


def plant_slow_disk(planted_step: int) -> None:
    """A checkpoint is written when so many further steps have ended, or none has for a second."""
    write, train_step, ended = saving.write, Trainer.train_step, threading.Semaphore(0)

    def planted(content, temporary, *, keep):
        for _ in range(planted_step):
            ended.acquire(timeout=1 if content.run["step"] == 10 else 60)
        return write(content, temporary, keep=keep)

    def step(self, batches):
        record = train_step(self, batches)
        ended.release()
        return record

    saving.write, Trainer.train_step = planted, step


def plant_memory(planted_step: int) -> None:
    """A GPU of 2 GiB has no room for the step."""
    properties = SimpleNamespace(name="a GPU of 2 GiB", total_memory=2 << 30)
    torch.cuda.get_device_properties = lambda device: properties
    plant_error(planted_step, torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB."))


def plant_error(planted_step: int, error: Exception | None = None) -> None:
    """An error of ours."""
    train_step, steps = Trainer.train_step, itertools.count(1)

    def planted(self, batches):
        if next(steps) == planted_step:
            raise error or RuntimeError("planted")
        return train_step(self, batches)

    Trainer.train_step = planted


if __name__ == "__main__":
    plant = globals()[f"plant_{sys.argv.pop(1)}"]
    plant(int(sys.argv.pop(1)))
    run_and_leave(train.train)
