"""Measure a run: its own recipe, data, loader, DeepSpeed and device, and nothing that it has trained is touched."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

from stoa.config import Config
from stoa.data.dataset import LoadedBatch
from stoa.files import write_whole, writing
from stoa.objectives.gather import rank
from stoa.profiling.measure import TRACE, TRACED_STEPS, WARMUP_STEPS, measure
from stoa.profiling.page import page
from stoa.profiling.profile import FOLDER, write
from stoa.profiling.table import lines
from stoa.run import pretrain
from stoa.training.trainer import Trainer


def profile(
    config: Config,
    deepspeed_config: str,
    *,
    steps: int,
    option: str,
    default_data: Callable[[int, int], Path],
    out: str | None = None,
) -> None:
    """Print the table, and write it with ``profile.json``, ``profile.html`` and ``trace.json.gz``.

    Args:
        config: the recipe.
        deepspeed_config: path of DeepSpeed's JSON.
        steps: to time.
        option: that gives them, for messages.
        default_data: as for :func:`stoa.run.pretrain`.
        out: folder; default ``profile`` in the run's own.

    Raises:
        ValueError: there are no steps to time, or whatever of the run is wrong.
    """
    if steps < 1:
        raise ValueError(f"{option} is {steps}; expected at least 1, for steady figures 10 or more")
    folder = Path(out or Path(config.training.output_dir) / FOLDER)
    needed = WARMUP_STEPS + 2 * steps + 1 + TRACED_STEPS
    training = replace(config.training, output_dir=str(folder), max_steps=max(config.training.max_steps, needed))

    def measured(trainer: Trainer, open_batches: Callable[[], Iterator[LoadedBatch]]) -> None:
        with writing(folder):
            folder.mkdir(parents=True, exist_ok=True)
        trainer.console.say(f"measuring {needed} steps, of which nothing is kept")
        found = measure(trainer, open_batches(), steps=steps, folder=folder)
        if rank() != 0:
            return
        write(found, folder / "profile.json")
        write_whole(folder / "profile.html", page([found], f"Profile of {folder}"))
        for line in lines([found]):
            trainer.console.say(line)
        if found.device != "cpu" and "mfu(%)" not in found.metrics:
            trainer.console.say(f"the peak of {found.device} in {found.precision} is not known: no MFU")
        trainer.console.say(f"written to {folder}: profile.json, profile.html, and {TRACE} for ui.perfetto.dev")

    pretrain(replace(config, training=training), deepspeed_config, default_data=default_data, steps=measured)
