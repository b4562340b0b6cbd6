"""The best weights of a run, chosen by a score that is asked for as it goes on."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.distributed as dist

from stoa.models.video_language import VideoLanguageModel
from stoa.objectives.gather import from_first_rank, rank
from stoa.training import checkpoint, saving
from stoa.training import engine as ds
from stoa.training.console import Console
from stoa.training.metrics import METRICS_FILE, MetricsLog, read_metrics


class Metric(NamedTuple):
    """A number by which weights are chosen, the higher the better, and how it is said.

    Attributes:
        name: as reports have it.
        factor: what it is multiplied with when it is said.
        scale: said behind it.
    """

    name: str
    factor: float = 1.0
    scale: str = "of 100"

    def said(self, value: float) -> str:
        return f"{self.factor * value:.1f}"


class Score(NamedTuple):
    """What a validation finds.

    Attributes:
        value: of the metric.
        metric: what it is.
        of: what it was measured on, as ``200 clips of val``.
    """

    value: float
    metric: Metric
    of: str

    def line(self, step: int, best: float | None, best_step: int | None) -> str:
        """What the console says.

        Args:
            step: of the weights.
            best, best_step: before; None where these are the first.
        """
        found = f"{self.metric.name} {self.metric.said(self.value)} {self.metric.scale} on {self.of}"
        before = "first" if best is None else f"best before {self.metric.said(best)} at step {best_step}"
        return f"validation at step {step}: {found}; {before}"


class Validation(NamedTuple):
    """How checkpoints are chosen: every so many steps ``score`` is asked for, on every rank, and the best weights are
    kept."""

    every: int
    score: Callable[[VideoLanguageModel], Score]


class BestWeights:
    """Keeps the weights that validation has found best, in the folder ``best`` of a run.

    Args:
        validation: says when, and how good they are.
        folder: of the run.
        max_steps: of the run; its end is validated too.
        console: shows the score.
    """

    def __init__(self, validation: Validation, folder: Path, *, max_steps: int, console: Console) -> None:
        self._validation = validation
        self._folder = folder
        self._max_steps = max_steps
        self._console = console

    def is_due(self, step: int) -> bool:
        """Whether the weights of this step are to be scored."""
        return step > 0 and (step % self._validation.every == 0 or step == self._max_steps)

    def is_owed(self, step: int) -> bool:
        """All ranks: whether the run was ended between the checkpoint of this step and what validation says of it."""
        if not self.is_due(step):
            return False
        log = self._folder / METRICS_FILE
        return from_first_rank(lambda: not any(r["step"] == step and "validation" in r for r in read_metrics(log)))

    def choose(self, engine: Any, step: int, run_facts: dict[str, Any], log: MetricsLog | None) -> None:
        """All ranks: ask for the score of the weights as they are, and keep them if they are the best so far.

        Args:
            engine: of DeepSpeed, around the objective whose model is scored.
            step: optimiser steps done.
            run_facts: stored with the weights.
            log: on the first rank.
        """
        engine.eval()
        weights = ds.whole_weights(engine.module.model)
        score = self._validation.score(_whole(engine, weights, run_facts))
        engine.train()
        folder = self._folder / checkpoint.BEST
        found = checkpoint.chosen(folder) if rank() == 0 else None
        before = {} if found is None else checkpoint.read_run(found)
        best = before.get("validation")
        self._console.say(score.line(step, best, before.get("step")))
        if rank() == 0 and (best is None or score.value > best):
            facts = {"step": step, "validation": score.value, "validation metric": score.metric.name}
            saving.save_weights(weights, folder, step, {**run_facts, **facts})
        if log is not None:
            log.write(step, {"validation": score.value})  # from here on it is not owed
            log.flush()
        dist.barrier()


def _whole(engine: Any, weights: dict[str, torch.Tensor], run_facts: dict[str, Any]) -> VideoLanguageModel:
    """The engine's model, or where ZeRO 3 has split it, on the first rank, a copy that works without the others."""
    model: VideoLanguageModel = engine.module.model
    if ds.zero_stage(engine) < 3 or rank() != 0:
        return model
    copy = VideoLanguageModel(model.config, used_token_ids=run_facts.get("used_token_ids"))
    copy.load_state_dict(weights)
    return copy.to(engine.device, model.mask_token.dtype).eval()
