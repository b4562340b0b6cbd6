"""The training run: from batches to checkpoints."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from stoa.data.dataset import LoadedBatch
from stoa.data.sampler import GlobalBatchSampler
from stoa.objectives.gather import mean_over_ranks, rank, world_size
from stoa.objectives.total import PretrainingObjective
from stoa.training import checkpoint
from stoa.training import engine as ds
from stoa.training.console import Console, duration, progress_line
from stoa.training.metrics import MetricsLog
from stoa.training.optim import OptimConfig, lr_factor, set_learning_rates

PAPER_BATCH = 1024


@dataclass(frozen=True, kw_only=True)
class TrainingConfig:
    """How long, how fast, how often saved.

    Attributes:
        output_dir: everything the run writes; a run found there is resumed.
        max_steps: optimiser steps in all.
        optim: AdamW and its schedule.
        seed: of initialisation, order, masks and negatives.
        log_every: steps between progress lines.
        save_every: steps between checkpoints; one is always written at the end.
        keep_checkpoints: complete checkpoints kept.
        tensorboard: write event files beside ``metrics.jsonl``.
    """

    output_dir: str = "runs/base"
    max_steps: int = 25_000
    optim: OptimConfig = field(default_factory=OptimConfig)
    seed: int = 0
    log_every: int = 10
    save_every: int = 500
    keep_checkpoints: int = 2
    tensorboard: bool = True

    def __post_init__(self) -> None:
        for name in ("max_steps", "log_every", "save_every", "keep_checkpoints"):
            if getattr(self, name) < 1:
                raise ValueError(f"training.{name} is {getattr(self, name)}; expected at least 1")
        if self.seed < 0:
            raise ValueError(f"training.seed is {self.seed}; expected 0 or more")


class Trainer:
    """Drives a DeepSpeed engine over the batches of a sampler.

    Args:
        config: see :class:`TrainingConfig`.
        engine: a DeepSpeed engine around a :class:`PretrainingObjective`.
        sampler: whose position is saved and restored.
        device: batches are moved to it.
        run_facts: JSON-able facts stored with every checkpoint; ``run_facts["config"]["model"]`` must equal
            that of a checkpoint it resumes from.
        console: shows progress.
    """

    def __init__(
        self,
        config: TrainingConfig,
        engine: Any,
        sampler: GlobalBatchSampler,
        *,
        device: torch.device,
        run_facts: dict[str, Any],
        console: Console,
    ) -> None:
        self.config = config
        self.engine = engine
        self.sampler = sampler
        self.device = device
        self.run_facts = run_facts
        self.console = console
        self.accumulation = ds.accumulation_steps(engine)
        self.checkpoints = Path(config.output_dir) / "checkpoints"
        self.step = 0
        self._saved_step = -1
        self._pending: list[tuple[int, dict[str, torch.Tensor], dict[str, float]]] = []
        self._window_start = 0.0

    @property
    def objective(self) -> PretrainingObjective:
        return self.engine.module

    @property
    def global_batch(self) -> int:
        """Clips that share a contrastive loss."""
        return self.sampler.global_batch

    def resume(self) -> bool:
        """Continue from the newest complete checkpoint of ``output_dir``, if there is one.

        Raises:
            ValueError: it is of another model, data order or number of processes.
        """
        # One rank reads and verifies the files, which all ranks share.
        found: list[Path | None] = [checkpoint.newest(self.checkpoints) if rank() == 0 else None]
        dist.broadcast_object_list(found)
        (path,) = found
        if path is None:
            return False
        run = checkpoint.read_run(path)
        _check_same_model(run["config"]["model"], self.run_facts["config"]["model"], path)
        self.sampler.load_state_dict(run["sampler"])
        checkpoint.load(self.engine, path)
        self.step = self._saved_step = int(run["step"])
        self.console.say(f"resuming from {path} at step {self.step}")
        return True

    def fit(self, batches: Iterator[LoadedBatch]) -> None:
        """Train to ``max_steps``. An error or Ctrl-C saves what a single process has trained so far."""
        if self.step >= self.config.max_steps:
            self.console.say(
                f"{self.config.output_dir} is already trained to step {self.step}; nothing to do "
                "(raise training.max_steps or choose another training.output_dir)"
            )
            return
        self._announce()
        log = (
            MetricsLog(Path(self.config.output_dir), last_step=self.step, tensorboard=self.config.tensorboard)
            if rank() == 0
            else None
        )
        self.engine.train()
        self._window_start = time.perf_counter()
        try:
            while self.step < self.config.max_steps:
                self._train_step(batches)
                if self.step % self.config.log_every == 0 or self.step in (1, self.config.max_steps):
                    self._report(log)
                if self.step % self.config.save_every == 0 or self.step == self.config.max_steps:
                    self._report(log)
                    self.save()
        except (KeyboardInterrupt, ValueError):
            # With several processes the others wait in a collective and cannot take part in a save.
            if world_size() == 1 and self.step > max(0, self._saved_step):
                self.save()
            raise
        finally:
            if log is not None:
                log.close()

    def _train_step(self, batches: Iterator[LoadedBatch]) -> None:
        """One optimiser step."""
        set_learning_rates(
            self.engine.optimizer, lr_factor(self.step, self.config.optim.warmup_steps, self.config.max_steps)
        )
        waited, counts = 0.0, {"replaced_clips": 0, "dropped_boxes": 0}
        for micro_step in range(self.step * self.accumulation, (self.step + 1) * self.accumulation):
            start = time.perf_counter()
            loaded = next(batches)
            waited += time.perf_counter() - start
            batch = loaded.batch.to(self.device, non_blocking=True)
            loss, scalars = self.engine(batch, micro_step)
            self.engine.backward(loss)
            self.engine.step()
            counts["replaced_clips"] += loaded.replaced
            counts["dropped_boxes"] += loaded.dropped_boxes
        self.step += 1
        self.sampler.next_batch = self.step * self.accumulation
        self._pending.append((self.step, scalars, {"data_wait_seconds": waited, **counts}))

    def _report(self, log: MetricsLog | None) -> None:
        """Fetch the scalars of the steps since the last report (the only wait for the device), log and show them.

        Raises:
            FloatingPointError: a loss is not finite.
        """
        if not self._pending:
            return
        names = list(self._pending[0][1])
        stacked = torch.stack(
            [torch.stack([scalars[name].float() for name in names]) for _, scalars, _ in self._pending]
        )
        table = mean_over_ranks(stacked).tolist()
        now = time.perf_counter()
        elapsed, steps = now - self._window_start, len(self._pending)
        waited = sum(host["data_wait_seconds"] for _, _, host in self._pending)
        shared = {
            "samples_per_second": steps * self.accumulation * self.global_batch / elapsed,
            "step_seconds": elapsed / steps,
            "data_wait_share": waited / elapsed,
            "eta_seconds": (self.config.max_steps - self.step) * elapsed / steps,
            "learning_rate": max(group["lr"] for group in self.engine.optimizer.param_groups),
            "skipped_steps": float(ds.skipped_steps(self.engine)),
        }
        norm = ds.grad_norm(self.engine)
        if norm is not None:
            shared["grad_norm"] = norm
        values: dict[str, float] = {}
        for (step, _, host), row in zip(self._pending, table, strict=True):
            values = {**dict(zip(names, row, strict=True)), **host, **shared}
            if log is not None:
                log.write(step, values)
            if not math.isfinite(values["loss"]):
                raise FloatingPointError(
                    f"the loss of step {step} is {values['loss']}; lower training.optim.*_lr, or raise "
                    f"warmup_steps. The last good checkpoint is under {self.checkpoints}"
                )
        if log is not None:
            log.flush()
        self.console.progress(progress_line(self.step, self.config.max_steps, values))
        if self.step == 1 and self.device.type == "cpu" and values["step_seconds"] > 5:
            self.console.say(f"a step takes {duration(values['step_seconds'])} on the CPU of this machine")
        self._pending.clear()
        self._window_start = time.perf_counter()

    def save(self) -> None:
        """Write a checkpoint of the current step."""
        if self._saved_step == self.step:
            return
        run = {**self.run_facts, "step": self.step, "sampler": self.sampler.state_dict()}
        path = checkpoint.save(
            self.engine, self.objective.model, self.checkpoints, self.step, run, keep=self.config.keep_checkpoints
        )
        self._saved_step = self.step
        self.console.say(f"saved {path}")
        self._window_start = time.perf_counter()

    def _announce(self) -> None:
        effective = self.global_batch
        note = (
            ""
            if effective >= PAPER_BATCH
            else f", smaller than the paper's {PAPER_BATCH}: fewer negatives, other results"
        )
        self.console.say(
            f"device {self.device.type}, {world_size()} process(es), effective global batch {effective} clips"
            f" ({self.sampler.micro_batch} each){note}"
        )
        if self.accumulation > 1:
            self.console.say(
                f"gradient accumulation over {self.accumulation} batches: the optimiser sees "
                f"{effective * self.accumulation} clips, each contrastive loss {effective}"
            )


def _check_same_model(saved: dict[str, Any], current: dict[str, Any], path: Path) -> None:
    for key, (old, new) in sorted(_differences(saved, current)):
        raise ValueError(
            f"checkpoint {path} is of another model: model.{key} is {old!r} there and {new!r} here; "
            "choose another training.output_dir, or give the checkpoint's value"
        )


def _differences(a: Any, b: Any, prefix: str = "") -> Iterator[tuple[str, tuple[Any, Any]]]:
    if isinstance(a, dict) and isinstance(b, dict):
        for key in a.keys() | b.keys():
            yield from _differences(a.get(key), b.get(key), f"{prefix}.{key}" if prefix else key)
    elif a != b:
        yield prefix, (a, b)
