"""What a run says of its steps, in its log and on the console, and that it ends where a number is not finite."""

from __future__ import annotations

import math
import time
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

import torch
from torch import nn

from stoa.data.ledger import Replacements
from stoa.objectives.gather import from_first_rank, mean_over_ranks, world_size
from stoa.objectives.total import LOSSES
from stoa.training import engine as ds
from stoa.training.console import Console, duration, progress_line
from stoa.training.metrics import MetricsLog

_CHECKED = {"loss", *LOSSES}
_LEAST_READ = 200  # a share of fewer clips says little


class TooManyBadClips(ValueError):
    """More of the clips that a run has read are bad than it is to bear with."""


class StepRecord(NamedTuple):
    """One step, until its scalars are fetched from the device."""

    step: int
    names: list[str]
    scalars: torch.Tensor
    learning_rate: float
    waited: float
    replaced: int
    dropped: int


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
        self._skipped_steps = ds.skipped_steps(engine)  # of the run until here
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
        taken = [norm for norm in norms if math.isfinite(norm)]  # the others' steps were skipped, or it is not told
        if clipping and taken:
            window["clipped_share"] = sum(norm > clipping for norm in taken) / len(taken)
        lines: list[dict[str, float]] = []
        for record, row in zip(records, rows, strict=True):
            _, replaced, dropped = (x * world_size() for x in row[-3:])
            self._replaced_clips += replaced
            self._read_clips += self._samples
            # A metric with nothing to measure is not a number; a loss that is none is an error.
            values = {n: x for n, x in zip(names, row[:-3], strict=True) if not math.isnan(x) or n in _CHECKED}
            if ds.uses_fp16(self._engine) and math.isinf(values.get("grad_norm", 0.0)):
                del values["grad_norm"]  # of a skipped step; JSON has no such number
            values |= {"learning_rate": record.learning_rate, "replaced_clips": replaced, "dropped_boxes": dropped}
            lines.append(values | window)
        try:
            if self.log is not None:
                for record, values in zip(records, lines, strict=True):
                    self.log.write(record.step, values)
                self.log.flush()
        finally:
            self._require_finite(records, lines)
        for line in () if self._replacements is None else self._replacements.new_lines():
            self._console.say(line)
        shown = {**lines[-1], "replaced_clips": self._replaced_clips}
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
        """Gradients that nobody has looked at (ZeRO 0 does not tell their norm) show in the weights.

        Raises:
            FloatingPointError: a weight is not finite.
        """
        weights = dict(model.named_parameters())
        # In fp32: half would overflow.
        norms = torch.stack([torch.linalg.vector_norm(w.detach(), dtype=torch.float32) for w in weights.values()])
        for name, finite in zip(weights, norms.isfinite().tolist(), strict=True):
            if not finite:
                self._diverged(f"weight {name} is not finite after step {step}")

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

    def _require_finite(self, records: list[StepRecord], lines: list[dict[str, float]]) -> None:
        """The fp16 loss scaler meets infinite gradients by skipping a step; anywhere else they are an end."""
        for record, values in zip(records, lines, strict=True):
            if not math.isfinite(values["loss"]):
                self._diverged(f"loss of step {record.step} is {values['loss']}")
            norm = values.get("grad_norm", 0.0)
            if not (math.isfinite(norm) or ds.uses_fp16(self._engine)):
                self._diverged(f"grad_norm of step {record.step} is {norm}")
        skipped = ds.skipped_steps(self._engine) - self._skipped_steps
        if skipped and not ds.uses_fp16(self._engine):  # of which DeepSpeed was told not to take the norm
            self._diverged(f"grad_norm of {skipped} step(s) up to {records[-1].step} is not finite")

    def _diverged(self, what: str) -> NoReturn:
        raise FloatingPointError(
            f"{what}; lower the learning rates under training.optim, or raise its warmup_steps. "
            f"The last good checkpoint is under {self._checkpoints}"
        )
