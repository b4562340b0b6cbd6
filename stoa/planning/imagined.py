"""A training step without data: a model on the meta device, whose operations and memory are counted."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import replace
from typing import NamedTuple

import torch

from stoa.costs.batches import full_batch
from stoa.costs.tracing import Tracer, Work
from stoa.models.config import ModelConfig, Recomputable
from stoa.models.video_language import VideoLanguageModel
from stoa.objectives.config import ObjectivesConfig
from stoa.objectives.gather import Collective, imagined_ranks
from stoa.objectives.total import TrainingObjective
from stoa.training.config import TrainingConfig
from stoa.training.optim import parameter_groups

RECOMPUTED: tuple[tuple[Recomputable, ...], ...] = (
    (),
    ("fusion",),
    ("graph", "fusion"),
    ("towers",),
    ("towers", "graph", "fusion"),
)
"""What may be computed again, from what costs least on."""
_DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}


class Step(NamedTuple):
    """Forward and backward pass of one rank.

    Attributes:
        before: most bytes at a time of the batch, activations and what is held for a moment, until a weight has its
            gradient.
        after: the same from then on. Gradients of weights are among them where the step keeps each until its end.
        work: of the operations of both passes.
        sent: by the objectives, to and from other ranks.
    """

    before: int
    after: int
    work: Counter[Work]
    sent: Counter[Collective]


class ImaginedRun:
    """Of a recipe.

    Args:
        model: its model.
        objectives: its losses.
        training: which tells what is trained, in which groups, and in chunks of how many clips.
        precision: of the weights, ``fp32``, ``fp16`` or ``bf16``.
        used_token_ids: see :class:`VideoLanguageModel`; none is all that there are.

    Raises:
        ValueError: the model or the objectives are none.
    """

    def __init__(
        self,
        model: ModelConfig,
        objectives: ObjectivesConfig,
        training: TrainingConfig,
        *,
        precision: str,
        used_token_ids: Sequence[int] | None = None,
    ) -> None:
        meta = torch.device("meta")
        if used_token_ids is None:
            model = replace(model, lm_vocab="full")
        with meta:
            made = VideoLanguageModel(model, used_token_ids=used_token_ids)
        made.clip.visual.freeze(training.optim.frozen_vision_blocks or 0)
        self.objective = TrainingObjective(made, objectives, seed=0, chunk_clips=training.chunk_clips)
        self.objective.to(_DTYPES[precision])
        self.parameters = sum(p.numel() for p in self.objective.parameters())
        groups = parameter_groups(self.objective, training.optim)
        self.trained = [sum(p.numel() for p in group["params"]) for group in groups]
        self._steps: dict[tuple[int, int, tuple[Recomputable, ...], bool], Step] = {}

    @property
    def model(self) -> VideoLanguageModel:
        return self.objective.model

    def recomputable(self) -> list[tuple[Recomputable, ...]]:
        """Choices of :data:`RECOMPUTED` that this model has."""
        graph = self.model.config.graph.layers > 0
        parts = (tuple(part for part in choice if graph or part != "graph") for choice in RECOMPUTED)
        return list(dict.fromkeys(parts))

    def step(
        self, clips: int, *, world: int, recomputed: Collection[Recomputable], keeps_gradients: bool = False
    ) -> Step:
        """Take a step; one that has been taken before is known.

        Args:
            clips: of a rank.
            world: ranks.
            recomputed: parts whose activations are not kept.
            keeps_gradients: as without ZeRO, which has buckets for them.
        """
        key = clips, world, tuple(recomputed), keeps_gradients
        if key not in self._steps:
            self._steps[key] = self._take(*key)
        return self._steps[key]

    def _take(self, clips: int, world: int, recomputed: Collection[Recomputable], keeps_gradients: bool) -> Step:
        self.model.recompute(recomputed)
        weights = [p for p in self.objective.parameters() if p.requires_grad]
        tracer, peaks = Tracer(), list[int]()

        def arrived(parameter: torch.Tensor) -> None:
            if not keeps_gradients:
                parameter.grad = None
            if not peaks:
                peaks.append(tracer.peak)
                tracer.peak = 0

        hooks = [p.register_post_accumulate_grad_hook(arrived) for p in weights]
        with imagined_ranks(world) as sent, tracer:
            tracer.know("weights", (*self.objective.parameters(), *self.objective.buffers()))
            loss, _ = self.objective(full_batch(self.model.config, clips, torch.device("meta")), 0)
            loss.backward()
        for hook in hooks:
            hook.remove()
        self.objective.zero_grad(set_to_none=True)
        held = tracer.live["weights"]
        return Step(peaks[0] - held, tracer.peak - held, tracer.work, sent)
