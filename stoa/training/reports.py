"""What a run says of its steps, in its log and on the console, and that it ends where a number is not finite."""

from __future__ import annotations

import math
import statistics
import time
from collections import deque
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

import torch
from torch import nn

from stoa.data.ledger import Replacements
from stoa.objectives.config import LOSSES
from stoa.objectives.gather import from_first_rank, mean_over_ranks, world_size
from stoa.training import engine as ds
from stoa.training.console import Console, duration, progress_line
from stoa.training.metrics import MetricsLog

_CHECKED = {"loss", *LOSSES}
_OF_MEDIAN, _LEAST_OF_MEDIAN = 100, 20
_LEAST_READ = 200  # a share of fewer clips says little


class TooManyBadClips(ValueError):
    """More of the clips that a run has read are bad than it is to bear with."""


class StepRecord(NamedTuple):
    """One step, until its scalars are fetched from the device.

    Attributes:
        step: of the optimiser, from 1.
        names: of the scalars.
        scalars: (len(names),) fp32.
        unsound: (), bool: a loss or a gradient of this rank's is not finite, and no loss scaler meets it.
        learning_rate: the largest of the groups.
        waited: for data, seconds.
        replaced: clips.
        dropped: boxes.
    """

    step: int
    names: list[str]
    scalars: torch.Tensor
    unsound: torch.Tensor
    learning_rate: float
    waited: float
    replaced: int
    dropped: int


class Spike(NamedTuple):
    """A loss that stands out."""

    step: int
    loss: float
    median: float

    def __str__(self) -> str:
        times = self.loss / self.median
        return f"loss of step {self.step} is {self.loss:.4g}, {times:.1f} times the median of those before"


class Reports:
    """Steps between two reports, and what is said of them.

    Args:
        engine: of DeepSpeed.
        max_steps: of the run.
        samples: clips of a step, of all ranks.
        tflop: of a step on one rank, 1e12 operations; see :func:`stoa.costs.flops.flops_per_batch`.
        peak_tflops: of the device and precision, TFLOP/s; none where it is not known.
        device: that the run trains on.
        checkpoints: their folder, for messages.
        console: shows progress.
        log: on the first rank.
        replacements: on the first rank, of all.
        skip_nonfinite, spike_factor: see :class:`~stoa.training.config.TrainingConfig`.
        max_bad_share: of the clips read that may have been replaced.
    """

    def __init__(
        self,
        engine: Any,
        *,
        max_steps: int,
        samples: int,
        tflop: float,
        peak_tflops: float | None,
        device: torch.device,
        checkpoints: Path,
        console: Console,
        log: MetricsLog | None,
        replacements: Replacements | None,
        skip_nonfinite: int = 0,
        spike_factor: float | None = None,
        max_bad_share: float = 1.0,
    ) -> None:
        self.log = log
        self._replacements = replacements
        self._engine = engine
        self._max_steps = max_steps
        self._samples = samples
        self._tflop = tflop
        self._peak_tflops = peak_tflops
        self._device = device
        self._checkpoints = checkpoints
        self._console = console
        self._pending: list[StepRecord] = []
        self._max_bad_share = max_bad_share
        self._replaced_clips, self._read_clips = 0.0, 0
        self._skip_nonfinite = skip_nonfinite
        self._spike_factor = spike_factor
        self._losses: deque[float] = deque(maxlen=_OF_MEDIAN)
        self._left_out = 0
        self.spike: Spike | None = None
        """The first of the last report, which whoever meets it takes away."""
        self._said_slow = False
        self.start_window()

    def start_window(self) -> None:
        """What was done until here is no part of the time that the next steps take."""
        self._window_start = time.perf_counter()

    def add(self, record: StepRecord) -> None:
        """One more step."""
        self._pending.append(record)

    def report(self) -> None:
        """All ranks: fetch the scalars of the steps since the last report (the only wait for the device), log and show
        them.

        Raises:
            FloatingPointError: a loss or gradient is not finite.
            TooManyBadClips: on all ranks.
            OSError: the log cannot be written.
        """
        if not self._pending:
            return
        names = self._pending[0].names
        assert all(record.names == names for record in self._pending)
        scalars = torch.stack([record.scalars for record in self._pending])
        host = [[r.waited, r.replaced, r.dropped] for r in self._pending]
        table = torch.cat([scalars, torch.tensor(host, device=scalars.device)], dim=1)
        rows = mean_over_ranks(table).tolist()
        records, self._pending = self._pending, []  # an error from here on must not bring them up again
        step = records[-1].step
        elapsed, steps = time.perf_counter() - self._window_start, len(records)
        window = {
            "samples_per_second": steps * self._samples / elapsed,
            "step_seconds": elapsed / steps,
            "tflops": steps * self._tflop / elapsed,
            "data_wait_share": sum(row[-3] for row in rows) / elapsed,
            "eta_seconds": (self._max_steps - step) * elapsed / steps,
            "skipped_steps": float(ds.skipped_steps(self._engine)),
        }
        if self._peak_tflops is not None:
            window["mfu(%)"] = 100 * window["tflops"] / self._peak_tflops
        clipping, norms = ds.gradient_clipping(self._engine), [row[names.index("grad_norm")] for row in rows]
        taken = [norm for norm in norms if math.isfinite(norm)]  # the others' steps were left out
        if clipping and taken:
            window["clipped_share"] = sum(norm > clipping for norm in taken) / len(taken)
        lines: list[dict[str, float]] = []
        problems: list[str] = []
        for record, row in zip(records, rows, strict=True):
            _, replaced, dropped = (x * world_size() for x in row[-3:])
            self._replaced_clips += replaced
            self._read_clips += self._samples
            # A metric with nothing to measure is not a number; a loss that is none is an error.
            values = {n: x for n, x in zip(names, row[:-3], strict=True) if not math.isnan(x) or n in _CHECKED}
            problem = self._problem(record.step, values)
            if problem is not None:
                problems.append(problem)
            if problem is None:
                self._look_for_a_spike(record.step, values["loss"])
                if math.isinf(values["grad_norm"]):
                    del values["grad_norm"]  # which the loss scaler has met; JSON has no such number
            elif self._left_out + len(problems) <= self._skip_nonfinite:
                values = {name: value for name, value in values.items() if math.isfinite(value)} | {"left_out": 1.0}
            values |= {"learning_rate": record.learning_rate, "replaced_clips": replaced, "dropped_boxes": dropped}
            lines.append(values | window)
        try:
            if self.log is not None:
                for record, values in zip(records, lines, strict=True):
                    self.log.write(record.step, values)
                self.log.flush()
        finally:
            self._meet(problems)
        for line in () if self._replacements is None else self._replacements.new_lines():
            self._console.say(line)
        shown = {"loss": math.nan, **lines[-1], "replaced_clips": self._replaced_clips}
        self._console.progress(progress_line(step, self._max_steps, shown))
        if self._device.type == "cpu" and window["step_seconds"] > 5 and not self._said_slow:
            self._console.say(f"a step takes {duration(window['step_seconds'])} on the CPU of this machine")
            self._said_slow = True
        self.start_window()
        self._require_sound_clips()

    def close(self) -> None:
        self._console.close()
        for line in () if self._replacements is None else self._replacements.summary():
            self._console.say(line)
        if self.log is not None:
            self.log.close()

    def require_finite_weights(self, model: nn.Module, step: int) -> None:
        """Whatever has led to them: a checkpoint holds none that are not.

        Raises:
            FloatingPointError: a weight is not finite.
        """
        weights = dict(model.named_parameters())
        # In fp32: half would overflow.
        norms = torch.stack([torch.linalg.vector_norm(w.detach(), dtype=torch.float32) for w in weights.values()])
        for name, finite in zip(weights, norms.isfinite().tolist(), strict=True):
            if not finite:
                self._diverged(f"weight {name} is not finite after step {step}")

    def _problem(self, step: int, values: dict[str, float]) -> str | None:
        """What of a step is not finite. The fp16 loss scaler meets infinite gradients; it does not meet a loss."""
        if not math.isfinite(values["loss"]):
            return f"loss of step {step} is {values['loss']}"
        norm = values["grad_norm"]
        if not (math.isfinite(norm) or ds.uses_fp16(self._engine)):
            return f"grad_norm of step {step} is {norm}"
        return None

    def _meet(self, problems: list[str]) -> None:
        for problem in problems:
            self._left_out += 1
            if self._left_out > self._skip_nonfinite:
                self._diverged(problem)
            self._console.say(
                f"{problem}: the step is left out, {self._left_out} of the {self._skip_nonfinite} that "
                "training.skip_nonfinite allows"
            )

    def _look_for_a_spike(self, step: int, loss: float) -> None:
        if self._spike_factor is not None and len(self._losses) >= _LEAST_OF_MEDIAN and self.spike is None:
            median = statistics.median(self._losses)
            if loss > self._spike_factor * median > 0:
                self.spike = Spike(step, loss, median)
                return
        self._losses.append(loss)

    def roll_back(self, generation: int) -> None:
        """The next steps are done once more."""
        self.spike = None
        if self.log is not None:
            self.log.roll_back(generation)
        self.start_window()

    def _require_sound_clips(self) -> None:
        bad, read = round(self._replaced_clips), max(self._read_clips, _LEAST_READ)
        if bad <= self._max_bad_share * read:
            return
        worst = from_first_rank(lambda: "" if self._replacements is None else self._replacements.worst())
        raise TooManyBadClips(
            f"{bad:,} of {self._read_clips:,} clips read could not be used, which data.max_bad_share "
            f"{self._max_bad_share:g} does not allow{worst}; 'stoa data check' finds them all: mend them or leave them "
            "out, or raise data.max_bad_share"
        )

    def _diverged(self, what: str) -> NoReturn:
        raise FloatingPointError(
            f"{what}; lower the learning rates under training.optim, or raise its warmup_steps. "
            f"The last good checkpoint is under {self._checkpoints}"
        )
