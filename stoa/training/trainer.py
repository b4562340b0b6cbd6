"""The training run: from batches to checkpoints."""

from __future__ import annotations

import math
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

import torch
import torch.distributed as dist

from stoa.data.dataset import LoadedBatch
from stoa.data.sampler import GlobalBatchSampler
from stoa.models.video_language import ModelConfig, VideoLanguageModel
from stoa.objectives.gather import from_first_rank, mean_over_ranks, rank, world_size
from stoa.objectives.total import LOSSES, TrainingObjective
from stoa.training import checkpoint
from stoa.training import engine as ds
from stoa.training.console import Console, duration, progress_line
from stoa.training.metrics import METRICS_FILE, MetricsLog, read_metrics
from stoa.training.optim import OptimConfig, lr_factor, set_learning_rates

PAPER_BATCH = 1024
_CHECKED = {"loss", *LOSSES}
# Keys of the model that change neither its weights nor its outputs.
_FREE_TO_CHANGE = {"activation_checkpointing"}


class _StepRecord(NamedTuple):
    """One step, until its scalars are fetched from the device."""

    step: int
    names: list[str]
    scalars: torch.Tensor
    learning_rate: float
    waited: float
    replaced: int
    dropped: int


class Validation(NamedTuple):
    """How checkpoints are chosen: every so many steps ``score`` (higher is better) is asked for, on every rank, and the
    best weights are kept."""

    every: int
    score: Callable[[VideoLanguageModel], float]


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

    output_dir: str = "runs/stoa"
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
        engine: a DeepSpeed engine around a :class:`TrainingObjective`.
        sampler: whose position is saved and restored.
        device: batches are moved to it.
        run_facts: JSON-able facts stored with every checkpoint (:func:`stoa.training.state.run_facts`).
        console: shows progress.
        validation: chooses the best weights.
        length_key: what a user changes to train longer, for messages.
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
        validation: Validation | None = None,
        length_key: str = "training.max_steps",
    ) -> None:
        self.config = config
        self.engine = engine
        self.sampler = sampler
        self.device = device
        self.run_facts = run_facts
        self.console = console
        self.validation = validation
        self.length_key = length_key
        self.accumulation = ds.accumulation_steps(engine)
        self.checkpoints = Path(config.output_dir) / "checkpoints"
        self.best = Path(config.output_dir) / checkpoint.BEST
        self.step = 0
        self._saved_step = 0
        self._updating = False
        self._skipped_steps = 0
        self._signals: set[int] = set()
        self._replaced_clips = 0.0
        self._said_slow = False
        self._pending: list[_StepRecord] = []
        self._window_start = 0.0

    @property
    def objective(self) -> TrainingObjective:
        return self.engine.module

    @property
    def global_batch(self) -> int:
        """Clips that share a contrastive loss."""
        return self.sampler.global_batch

    def resume(self) -> None:
        """Continue from the newest sound checkpoint of ``output_dir``, if there is one.

        Raises:
            ValueError: it is of another model, precision, data order, number of processes or fine-tuning, or all are
                damaged.
        """
        path = from_first_rank(lambda: checkpoint.newest(self.checkpoints))  # which verifies files that all ranks share
        if path is None:
            if rank() == 0:
                checkpoint.set_aside(self.best)  # its score would be compared with those of another training
            return
        run = checkpoint.read_run(path)
        _check_same(run, self.run_facts, path)
        if self.run_facts.get("losses") and run.get("losses"):  # weights of losses may change from call to call
            self.run_facts["losses"] = sorted({*self.run_facts["losses"], *run["losses"]})
        self.sampler.load_state_dict(run["sampler"])
        checkpoint.load(self.engine, path)
        if rank() == 0:
            checkpoint.set_aside_after(path)
        self.step = self._saved_step = int(run["step"])
        self.console.say(f"resuming from {path} at step {self.step}")

    def fit(self, batches: Iterator[LoadedBatch]) -> None:
        """Train to ``max_steps``.

        SIGINT (Ctrl-C) and SIGTERM end a run at the next step (with several processes: the next report),
        saved; a second SIGINT ends it at once. After an error a single process saves what it has trained.

        Raises:
            KeyboardInterrupt: it was ended by a signal, after saving.
            FloatingPointError: a loss, a gradient or a weight is not finite; nothing is saved.
        """
        owed = self._owes_validation()
        if self.step >= self.config.max_steps and not owed:
            self.console.say(
                f"{self.config.output_dir} is already trained to step {self.step}; nothing to do "
                f"(raise {self.length_key} or choose another training.output_dir)"
            )
            return
        self._announce()
        folder = Path(self.config.output_dir)
        log = MetricsLog(folder, last_step=self.step, tensorboard=self.config.tensorboard) if rank() == 0 else None
        self.engine.train()
        self._skipped_steps = ds.skipped_steps(self.engine)  # of the run until here
        self._window_start = time.perf_counter()
        with self._signals_end_at_a_step():
            try:
                if owed:
                    self._validate(log)
                self._loop(batches, log)
            except FloatingPointError:
                raise
            except Exception:
                # With several processes the others wait in a collective and cannot take part in a save.
                if world_size() == 1 and not self._updating:
                    self._save_after_an_error(log)
                if self._signals:  # which also ended the loader's processes
                    self._stop()
                raise
            finally:
                self.console.close()
                if log is not None:
                    log.close()

    def _loop(self, batches: Iterator[LoadedBatch], log: MetricsLog | None) -> None:
        config, first = self.config, self.step + 1
        while self.step < config.max_steps:
            self._train_step(batches)
            last = self.step == config.max_steps
            if self.step % config.log_every == 0 or self.step == first or last:
                stop = self._report(log)
            else:
                stop = bool(self._signals) and world_size() == 1
            validates = self._validates_here()
            if self.step % config.save_every == 0 or last or stop or validates:
                self._report(log)
                self.save()
            if validates:
                self._validate(log)
            if stop and not last:
                self._stop()

    def _train_step(self, batches: Iterator[LoadedBatch]) -> None:
        """One optimiser step."""
        factor = lr_factor(self.step, self.config.optim.warmup_steps, self.config.max_steps)
        set_learning_rates(self.engine.optimizer, factor)
        waited, replaced, dropped = 0.0, 0, 0
        micro_scalars = []
        for micro_step in range(self.step * self.accumulation, (self.step + 1) * self.accumulation):
            start = time.perf_counter()
            loaded = next(batches)
            waited += time.perf_counter() - start
            batch = loaded.batch.to(self.device, non_blocking=True)
            loss, scalars = self.engine(batch, micro_step)
            self.engine.backward(loss)
            self._updating = True
            self.engine.step()
            self._updating = False
            micro_scalars.append(torch.stack([value.float() for value in scalars.values()]))
            replaced += loaded.replaced
            dropped += loaded.dropped_boxes
        self.step += 1
        self.sampler.next_batch = self.step * self.accumulation
        means = torch.stack(micro_scalars).mean(dim=0)  # a metric that one micro-batch lacks is left out of the step
        rate = max(group["lr"] for group in self.engine.optimizer.param_groups)
        self._pending.append(_StepRecord(self.step, list(scalars), means, rate, waited, replaced, dropped))

    def _report(self, log: MetricsLog | None) -> bool:
        """Fetch the scalars of the steps since the last report (the only wait for the device), log and show them.

        Returns:
            whether a rank has been told to stop.

        Raises:
            FloatingPointError: a loss or gradient is not finite.
            OSError: the log cannot be written.
        """
        if not self._pending:
            return bool(self._signals)
        names = self._pending[0].names
        assert all(record.names == names for record in self._pending)
        scalars = torch.stack([record.scalars for record in self._pending])
        host = [[r.waited, r.replaced, r.dropped, float(bool(self._signals))] for r in self._pending]
        table = torch.cat([scalars, torch.tensor(host, device=scalars.device)], dim=1)
        rows = mean_over_ranks(table).tolist()
        records, self._pending = self._pending, []  # an error from here on must not bring them up again
        elapsed, steps = time.perf_counter() - self._window_start, len(records)
        samples = self.accumulation * self.global_batch
        timing = {
            "samples_per_second": steps * samples / elapsed,
            "step_seconds": elapsed / steps,
            "data_wait_share": sum(row[-4] for row in rows) / elapsed,
            "eta_seconds": (self.config.max_steps - self.step) * elapsed / steps,
            "skipped_steps": float(ds.skipped_steps(self.engine)),
        }
        lines: list[dict[str, float]] = []
        for record, row in zip(records, rows, strict=True):
            _, replaced, dropped, _ = (x * world_size() for x in row[-4:])
            self._replaced_clips += replaced
            # A metric with nothing to measure is not a number; a loss that is none is an error.
            values = {n: x for n, x in zip(names, row[:-4], strict=True) if not math.isnan(x) or n in _CHECKED}
            values |= {"learning_rate": record.learning_rate, "replaced_clips": replaced, "dropped_boxes": dropped}
            lines.append(values | timing)
        norm = ds.grad_norm(self.engine)
        if norm is not None:
            lines[-1]["grad_norm"] = norm
        try:
            if log is not None:
                for record, values in zip(records, lines, strict=True):
                    log.write(record.step, values)
                log.flush()
        finally:
            self._check_finite(records, lines)
        shown = {**lines[-1], "replaced_clips": self._replaced_clips}
        self.console.progress(progress_line(self.step, self.config.max_steps, shown))
        if self.device.type == "cpu" and timing["step_seconds"] > 5 and not self._said_slow:
            self.console.say(f"a step takes {duration(timing['step_seconds'])} on the CPU of this machine")
            self._said_slow = True
        self._window_start = time.perf_counter()
        return rows[-1][-1] > 0

    def _validates_here(self) -> bool:
        if self.validation is None or self.step == 0:
            return False
        return self.step % self.validation.every == 0 or self.step == self.config.max_steps

    def _owes_validation(self) -> bool:
        """Whether the run was ended between the checkpoint of this step and what validation says of it."""
        if not self._validates_here():
            return False
        log = Path(self.config.output_dir) / METRICS_FILE
        return from_first_rank(lambda: not any(r["step"] == self.step and "validation" in r for r in read_metrics(log)))

    def _validate(self, log: MetricsLog | None) -> None:
        """Ask for the score of the weights as they are, and keep them if they are the best so far."""
        assert self.validation is not None
        self.engine.eval()
        score = self.validation.score(self.objective.model)
        self.engine.train()
        found = checkpoint.chosen(self.best) if rank() == 0 else None
        best = -math.inf if found is None else checkpoint.read_run(found)["validation"]
        self.console.say(f"validation at step {self.step}: {score:.2f}" + (f" (best {best:.2f})" if found else ""))
        if rank() == 0 and score > best:
            run = {**self.run_facts, "step": self.step, "validation": score}
            checkpoint.save_weights(self.objective.model, self.best, self.step, run)
        if log is not None:
            log.write(self.step, {"validation": score})  # from here on it is not owed
            log.flush()
        dist.barrier()
        self._window_start = time.perf_counter()

    def _check_finite(self, records: list[_StepRecord], lines: list[dict[str, float]]) -> None:
        """The fp16 loss scaler meets infinite gradients by skipping a step; anywhere else they are an end."""
        for record, values in zip(records, lines, strict=True):
            if not math.isfinite(values["loss"]):
                self._diverged(f"loss of step {record.step} is {values['loss']}")
        if ds.uses_fp16(self.engine):
            return
        norm, skipped = lines[-1].get("grad_norm", 0.0), ds.skipped_steps(self.engine)
        if not math.isfinite(norm):
            self._diverged(f"grad_norm of step {self.step} is {norm}")
        if skipped > self._skipped_steps:  # DeepSpeed tells the norm of the last step alone
            self._diverged(f"grad_norm of {skipped - self._skipped_steps} step(s) up to {self.step} is not finite")

    def _diverged(self, what: str) -> NoReturn:
        raise FloatingPointError(
            f"{what}; lower the learning rates under training.optim, or raise its warmup_steps. "
            f"The last good checkpoint is under {self.checkpoints}"
        )

    def _save_after_an_error(self, log: MetricsLog | None) -> None:
        try:
            self._report(log)  # what is not finite is not saved
        except FloatingPointError:
            raise
        except Exception as error:
            self.console.say(f"the steps up to {self.step} are not in the log: {error}")
        self.save()

    def save(self) -> None:
        """Write a checkpoint of the current step.

        Raises:
            FloatingPointError: a weight is not finite.
            OSError: the disk refuses.
        """
        if self._saved_step == self.step:
            return
        # Gradients that nobody has looked at (ZeRO 0 does not tell their norm) show here. In fp32: half would overflow.
        weights = dict(self.objective.model.named_parameters())
        norms = torch.stack([torch.linalg.vector_norm(w.detach(), dtype=torch.float32) for w in weights.values()])
        for name, finite in zip(weights, norms.isfinite().tolist(), strict=True):
            if not finite:
                self._diverged(f"weight {name} is not finite after step {self.step}")
        run = {**self.run_facts, "step": self.step, "sampler": self.sampler.state_dict()}
        path = checkpoint.save(
            self.engine, self.objective.model, self.checkpoints, self.step, run, keep=self.config.keep_checkpoints
        )
        self._saved_step = self.step
        self.console.say(f"saved {path}")
        self._window_start = time.perf_counter()

    def _stop(self) -> NoReturn:
        raise KeyboardInterrupt(f"interrupted, saved at step {self._saved_step}; the same command goes on from there")

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

    @contextmanager
    def _signals_end_at_a_step(self) -> Iterator[None]:
        """SIGINT and SIGTERM ask for an end; a second SIGINT takes effect at once.

        DeepSpeed's launcher follows the terminal's SIGINT with a SIGTERM of its own; of Slurm and torchrun each sends a
        SIGTERM.
        """

        def handler(signum: int, frame: Any) -> None:
            if signum == signal.SIGINT and signum in self._signals:
                raise KeyboardInterrupt("interrupted twice, stopped at once; see the last checkpoint")
            self._signals.add(signum)

        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = {number: signal.signal(number, handler) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, old in before.items():
                signal.signal(number, old)


def _check_same(saved: dict[str, Any], current: dict[str, Any], path: Path) -> None:
    """What a checkpoint's states depend on must be what this run has.

    Raises:
        ValueError: names the first difference and both values.
    """
    model = _filled(saved["config"]["model"], asdict(ModelConfig())), current["config"]["model"]
    layouts = ds.layout(saved["deepspeed_config"]), ds.layout(current["deepspeed_config"])
    parts = [
        ("model", "another model", *model),
        ("architecture", "another model", saved["architecture"], current["architecture"]),
        ("training.optim", "an optimiser of other parameters", _trained(saved["config"]), _trained(current["config"])),
        ("DeepSpeed", "another DeepSpeed configuration", *layouts),
        ("fine-tuning", "another fine-tuning", _started_from(saved), _started_from(current)),
    ]
    for part, what, old, new in parts:
        for key, (before, now) in sorted(_differences(old, new)):
            if key in _FREE_TO_CHANGE:
                continue
            raise ValueError(
                f"checkpoint {path} is of {what}: {part}.{key} is {before!r} there and {now!r} here; "
                "choose another training.output_dir, or give the checkpoint's value"
            )


def _trained(config: dict[str, Any]) -> dict[str, Any]:
    """What decides, beside the model, which parameters the optimiser holds."""
    optim = config["training"]["optim"]
    return {
        "frozen_vision_blocks": optim.get("frozen_vision_blocks") or 0,
        "objects_lr": "of its own" if optim.get("objects_lr") is not None else "new_lr",
    }


def _started_from(run: dict[str, Any]) -> dict[str, Any]:
    """What a fine-tuning is for, and the weights that it began with."""
    return {"task": run.get("task"), "run (sha256 of its weights)": (run.get("pretrained") or {}).get("weights sha256")}


def _filled(saved: dict[str, Any], default: dict[str, Any]) -> dict[str, Any]:
    """A saved configuration with the keys that it does not know yet at their defaults."""
    out = {**default, **saved}
    for key, value in default.items():
        if isinstance(value, dict) and isinstance(out[key], dict):
            out[key] = _filled(out[key], value)
    return out


def _differences(a: Any, b: Any, prefix: str = "") -> Iterator[tuple[str, tuple[Any, Any]]]:
    if isinstance(a, dict) and isinstance(b, dict):
        for key in a.keys() | b.keys():
            yield from _differences(a.get(key), b.get(key), f"{prefix}.{key}" if prefix else key)
    elif a != b:
        yield prefix, (a, b)
