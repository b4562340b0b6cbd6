"""The training run: from batches to checkpoints."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NoReturn

import torch

from stoa.costs.devices import peak_tflops
from stoa.costs.flops import Flops, total_flops
from stoa.data.dataset import LoadedBatch
from stoa.data.ledger import LEDGER_FILE, Replacements
from stoa.data.sampler import GlobalBatchSampler
from stoa.endings import LostProcess
from stoa.objectives.gather import Agreement, from_first_rank, rank, world_size
from stoa.objectives.total import TrainingObjective
from stoa.parts import part
from stoa.training import checkpoint, saving
from stoa.training import engine as ds
from stoa.training.config import TrainingConfig
from stoa.training.console import Console
from stoa.training.metrics import MetricsLog
from stoa.training.optim import lr_factor, set_learning_rates
from stoa.training.processes import noticing_losses
from stoa.training.reports import Reports, StepRecord, TooManyBadClips
from stoa.training.resumable import Shape, require_same_run, require_same_steps, reshaping
from stoa.training.saver import Saver
from stoa.training.signals import asked_to_end
from stoa.training.validation import BestWeights, Validation
from stoa.training.watchdog import Watchdog

PAPER_BATCH = 1024


class Trainer:
    """Drives a DeepSpeed engine over the batches of a sampler.

    Args:
        config: see :class:`TrainingConfig`.
        engine: a DeepSpeed engine around a :class:`TrainingObjective`.
        sampler: whose position is saved and restored.
        device: batches are moved to it.
        flops: of one pass on this rank, by part; told by a model that ZeRO 3 has not split yet.
        run_facts: JSON-able facts stored with every checkpoint (:func:`stoa.training.state.run_facts`).
        console: shows progress.
        watchdog: ends the process where a step, a save or a validation hangs.
        validation: chooses the best weights.
        length_key: what a user changes to train longer, for messages.
        max_bad_share: of the clips read that may have been replaced; see :class:`stoa.data.loader.DataConfig`.
    """

    def __init__(
        self,
        config: TrainingConfig,
        engine: Any,
        sampler: GlobalBatchSampler,
        *,
        device: torch.device,
        flops: dict[str, Flops],
        run_facts: dict[str, Any],
        console: Console,
        watchdog: Watchdog,
        validation: Validation | None = None,
        length_key: str = "training.max_steps",
        max_bad_share: float = 1.0,
    ) -> None:
        self.config = config
        self.engine = engine
        self.sampler = sampler
        self.device = device
        self._flops = flops
        self.run_facts = run_facts
        self.console = console
        self.watchdog = watchdog
        self.length_key = length_key
        self.max_bad_share = max_bad_share
        self.accumulation = ds.accumulation_steps(engine)
        self.folder = Path(config.output_dir)
        self.checkpoints = self.folder / checkpoint.CHECKPOINTS
        self.best: BestWeights | None = None
        if validation is not None:
            self.best = BestWeights(validation, self.folder, max_steps=config.max_steps, console=console)
        self.step = 0
        self.saver = Saver(
            self.checkpoints,
            keep=config.keep_checkpoints,
            background=config.save_in_background,
            goes_on=config.on_save_failure == "go_on",
            say=console.say,
        )
        self._saved_step, self._saved_at = 0, time.monotonic()
        self._updating = False
        self._signals = set[int]()

    @property
    def objective(self) -> TrainingObjective:
        return self.engine.module

    @property
    def device_name(self) -> str:
        """That its driver gives a GPU, else ``cpu``."""
        return torch.cuda.get_device_name(self.device) if self.device.type == "cuda" else self.device.type

    def flops(self) -> dict[str, Flops]:
        """Of an optimiser step on this rank, by part."""
        times = self.accumulation
        return {name: Flops(times * part.forward, times * part.backward) for name, part in self._flops.items()}

    @property
    def global_batch(self) -> int:
        """Clips that share a contrastive loss."""
        return self.sampler.global_batch

    def resume(self, *, reshaped: bool = False) -> bool:
        """Continue from the newest sound checkpoint of ``output_dir``, if there is one.

        Args:
            reshaped: it may be of another number of processes, batch, stage of ZeRO or precision.

        Returns:
            whether there is.

        Raises:
            ValueError: it is of another model, precision, data order, number of processes or fine-tuning, or all are
                damaged.
        """
        path = from_first_rank(lambda: checkpoint.newest(self.checkpoints))  # which verifies files that all ranks share
        if path is None:
            if rank() == 0:  # the score of the best would be compared with those of another training
                checkpoint.set_aside(self.folder / checkpoint.BEST)
            return False
        run = checkpoint.read_resumable(path)
        require_same_run(run, self.run_facts, path, reshaped=reshaped)
        if "excluded" in run:
            self.run_facts["excluded"] = run["excluded"]
        if self.run_facts.get("losses") and run.get("losses"):  # weights of losses may change from call to call
            self.run_facts["losses"] = sorted({*self.run_facts["losses"], *run["losses"]})
        self.sampler.load_state_dict(run["sampler"], reshaped=reshaped)
        here = Shape.of({**self.run_facts, "sampler": self.sampler.state_dict()})
        if self.length_key == "epochs":
            require_same_steps(Shape.of(run), here, path)
        said = reshaping(run, here)
        saving.load(self.engine, path)
        if rank() == 0:
            checkpoint.set_aside_after(path)
        self.step = self._saved_step = int(run["step"])
        self.console.say(f"resuming from {path} at step {self.step}{f', {said}' if said else ''}")
        return True

    def fit(self, open_batches: Callable[[], Iterator[LoadedBatch]]) -> None:
        """Train to ``max_steps``.

        Args:
            open_batches: gives batches of the sampler, from its position on.

        SIGINT (Ctrl-C), SIGTERM and SIGUSR2 end a run at the next step (with several processes, whichever it comes to:
        at the one after), saved; a second SIGINT ends it at once. After an error a single process saves what it has
        trained.

        Raises:
            KeyboardInterrupt: it was ended by a signal, after saving.
            FloatingPointError: a loss, a gradient or a weight is not finite; nothing is saved.
            LostProcess: another process has gone.
        """
        owed = self.best is not None and self.best.is_owed(self.step)
        if self.step >= self.config.max_steps and not owed:
            self.console.say(
                f"{self.config.output_dir} is already trained to step {self.step}; nothing to do "
                f"(raise {self.length_key} or choose another training.output_dir)"
            )
            return
        self._announce()
        said = from_first_rank(self._require_room)
        if said is not None:
            self.console.say(said)
        log = None
        if rank() == 0:
            log = MetricsLog(
                self.folder,
                last_step=self.step,
                tensorboard=self.config.tensorboard,
                generation=len(self.run_facts.get("excluded", [])),
            )
        self.engine.train()
        reports = Reports(
            self.engine,
            max_steps=self.config.max_steps,
            samples=self.accumulation * self.global_batch,
            tflop=total_flops(self.flops()) / 1e12,
            peak_tflops=peak_tflops(self.device_name, ds.precision(self.engine)),
            device=self.device,
            checkpoints=self.checkpoints,
            console=self.console,
            log=log,
            replacements=Replacements(self.folder / LEDGER_FILE) if rank() == 0 else None,
            skip_nonfinite=self.config.skip_nonfinite,
            spike_factor=self.config.spike_factor,
            max_bad_share=self.max_bad_share,
        )
        with asked_to_end() as self._signals:
            try:
                with noticing_losses():
                    if owed:
                        self._validate(reports)
                    self._loop(open_batches, reports)
            except (FloatingPointError, LostProcess):
                raise
            except Exception as error:
                # With several processes the others wait in a collective and cannot take part in a save, unless it is an
                # end that all have come to.
                if (world_size() == 1 or isinstance(error, TooManyBadClips)) and not self._updating:
                    self._save_after_an_error(reports)
                if self._signals:  # which also ended the loader's processes
                    self._stop()
                raise
            finally:
                if world_size() == 1:  # who waits for others here may wait for the dead
                    self.saver.close()
                reports.close()

    def _require_room(self) -> str | None:
        checkpoints, keep = self.checkpoints, self.config.keep_checkpoints
        return saving.require_room(self.objective.model, checkpoints, keep)

    def _loop(self, open_batches: Callable[[], Iterator[LoadedBatch]], reports: Reports) -> None:
        config, first, agreement, batches = self.config, self.step + 1, Agreement(self.device), open_batches()
        while self.step < config.max_steps:
            record = self.train_step(batches)
            reports.add(record)
            last = self.step == config.max_steps
            self.saver.check()
            stop, due, unsound = agreement.ask(
                stop=bool(self._signals), save=rank() == 0 and self._is_long_since_a_save(), unsound=record.unsound
            )
            if self.step % config.log_every == 0 or self.step == first or last or unsound:
                reports.report()
            validates = self.best is not None and self.best.is_due(self.step)
            saves = self.step % config.save_every == 0 or last or stop or due or validates
            if saves:
                reports.report()
            if reports.spike is not None:
                self._roll_back(reports)
                batches = open_batches()
                continue
            if saves:
                self.save(reports, last=last or stop)
            if validates:
                self._validate(reports)
            if stop and not last:
                agreement.finish()
                self._stop()
        agreement.finish()

    def _roll_back(self, reports: Reports) -> None:
        """All ranks: to the newest checkpoint, and on behind the clips that were taken since.

        Raises:
            FloatingPointError: there is none, or the run has gone back as often as it may.
        """
        spike, before = reports.spike, self.run_facts.get("excluded", [])
        self.saver.finish()
        path = from_first_rank(lambda: checkpoint.newest(self.checkpoints))
        if path is None or len(before) >= self.config.spike_rollbacks:
            why = "there is no checkpoint yet" if path is None else "training.spike_rollbacks allows no further one"
            raise FloatingPointError(f"{spike}, and {why}; lower the learning rates under training.optim")
        run, position = checkpoint.read_resumable(path), self.sampler.state_dict()
        saving.load(self.engine, path)
        left_out = {name: [run["sampler"][name], position[name]] for name in ("epoch", "taken")}
        steps = [int(run["step"]) + 1, self.step]
        self.run_facts["excluded"] = [*before, {"steps": steps, **left_out, "why": str(spike)}]
        self.step = self._saved_step = int(run["step"])
        self.console.say(f"{spike}: back to {path}; the clips of steps {steps[0]} to {steps[1]} are left out")
        reports.roll_back(len(self.run_facts["excluded"]))

    def train_step(self, batches: Iterator[LoadedBatch]) -> StepRecord:
        """One optimiser step, which neither logs nor saves."""
        factor = lr_factor(self.step, self.config.optim.warmup_steps, self.config.max_steps)
        set_learning_rates(self.engine.optimizer, factor)
        waited, replaced, dropped = 0.0, 0, 0
        micro_scalars, unsound = [], torch.zeros((), dtype=torch.bool, device=self.device)
        for micro_step in range(self.step * self.accumulation, (self.step + 1) * self.accumulation):
            start = time.perf_counter()
            with part("data wait"):
                loaded = next(batches)
            waited += time.perf_counter() - start
            with part("host to device"):
                batch = loaded.batch.to(self.device, non_blocking=True)
            loss, scalars = self.engine(batch, torch.full((), micro_step, device=self.device))
            with part("backward"):
                self.engine.backward(ds.whole_or_nothing(loss))
            self._updating = True
            with part("optimiser"):
                self.engine.step()
            self._updating = False
            unsound |= ~loss.detach().isfinite()
            micro_scalars.append(torch.stack([value.float() for value in scalars.values()]))
            replaced += loaded.replaced
            dropped += loaded.dropped_boxes
        self.step += 1
        self.sampler.advance(self.accumulation)
        self.watchdog.step_ended(self.step)
        means = torch.stack(micro_scalars).mean(dim=0)  # a metric that one micro-batch lacks is left out of the step
        norm = ds.grad_norm(self.engine, means.device)
        rate = max(group["lr"] for group in self.engine.optimizer.param_groups)
        if not ds.uses_fp16(self.engine):
            unsound |= ~norm.isfinite()
        told = torch.cat([means, norm[None]])
        return StepRecord(self.step, [*scalars, "grad_norm"], told, unsound, rate, waited, replaced, dropped)

    def _validate(self, reports: Reports) -> None:
        assert self.best is not None
        with self.watchdog.phase("validation"):
            self.best.choose(self.engine, self.step, self.run_facts, reports.log)
        reports.start_window()

    def _save_after_an_error(self, reports: Reports) -> None:
        try:
            reports.report()  # what is not finite is not saved
        except FloatingPointError:
            raise
        except Exception as error:
            self.console.say(f"the steps up to {self.step} are not in the log: {error}")
        self.save(reports, last=True)

    def _is_long_since_a_save(self) -> bool:
        minutes = self.config.save_minutes
        return minutes is not None and time.monotonic() - self._saved_at > 60 * minutes

    def save(self, reports: Reports, *, last: bool) -> None:
        """Write a checkpoint of the current step; the ``last`` is waited for.

        Raises:
            FloatingPointError: a weight is not finite.
            OSError: the disk refuses.
        """
        if self._saved_step == self.step:
            self.saver.finish(last=last)
            return
        reports.require_finite_weights(self.objective.model, self.step)
        run = {**self.run_facts, "step": self.step, "sampler": self.sampler.state_dict()}
        with self.watchdog.phase("save"):
            self.saver.save(self.engine, self.objective.model, self.step, run, last=last)
        self._saved_step, self._saved_at = self.step, time.monotonic()
        reports.start_window()

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
