"""How long a run trains, how fast, and how often it is saved."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

Compiled = Literal["none", "blocks", "forward"]


@dataclass(frozen=True, kw_only=True)
class OptimConfig:
    """AdamW with a linear warm-up and a cosine to zero. The values are ours: the papers give none.

    Attributes:
        clip_lr: peak learning rate of the CLIP towers and the temperature.
        new_lr: peak learning rate of everything that is not in CLIP.
        objects_lr: peak learning rate of the modules of objects, trajectories, their look, motion, relations and
            changes, and actions; null is ``new_lr``.
        weight_decay: of matrices; norms, biases, embeddings and the temperature have none.
        beta1: decay of AdamW's mean of gradients.
        beta2: decay of AdamW's mean of their squares.
        eps: what AdamW adds to the root of the latter; gradients that are not larger move a weight less than the
            learning rate says.
        warmup_steps: optimiser steps from 0 to the peak.
        frozen_vision_blocks: blocks of the vision tower, from the first, that are not trained, nor are its embeddings;
            0 trains the whole tower. None is as in the run that fine-tuning starts from, and 0 in pre-training.
    """

    clip_lr: float = 1e-5
    new_lr: float = 1e-4
    objects_lr: float | None = None
    weight_decay: float = 0.05
    beta1: float = 0.9
    beta2: float = 0.98
    eps: float = 1e-8
    warmup_steps: int = 500
    frozen_vision_blocks: int | None = None

    def __post_init__(self) -> None:
        for name in ("clip_lr", "new_lr", "objects_lr", "weight_decay", "warmup_steps", "frozen_vision_blocks"):
            if not (getattr(self, name) or 0) >= 0:
                raise ValueError(f"training.optim.{name} is {getattr(self, name)}; expected 0 or more")
        for name in ("beta1", "beta2"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"training.optim.{name} is {getattr(self, name)}; expected 0 or more and less than 1")
        if not self.eps > 0:
            raise ValueError(f"training.optim.eps is {self.eps}; expected more than 0")


@dataclass(frozen=True, kw_only=True)
class TrainingConfig:
    """Of a run, whatever is trained.

    Attributes:
        output_dir: everything the run writes; a run found there is resumed.
        max_steps: optimiser steps in all.
        optim: AdamW and its schedule.
        seed: of initialisation, order, masks and negatives.
        log_every: steps between progress lines.
        save_every: steps between checkpoints; one is always written at the end.
        save_minutes: minutes after which a checkpoint is written in between; null never does.
        save_in_background: go on while a checkpoint is written, of a copy in the memory of the host.
        on_save_failure: what a disk that refuses a checkpoint does to a run: ``end``, or ``go_on`` without it. The last
            one is never gone on without.
        keep_checkpoints: complete checkpoints kept.
        skip_nonfinite: steps of a call that may be left out because their loss or gradients are not finite, on all
            ranks alike; the next one ends the run. (fp16's loss scaler meets infinite gradients by itself.)
        spike_factor: how many times the median of the last 100 a loss may be before the run goes back to its last
            checkpoint and leaves out the clips since then; null never does.
        spike_rollbacks: how often a run may do so.
        hang_minutes: a step that takes longer ends the run; a save may take 3 times as long and a validation 12 times.
        tensorboard: write event files beside ``metrics.jsonl``.
        chunk_clips: clips of a micro-batch whose activations the encoders hold at a time; the losses see all of them,
            as they would without. Each chunk passes the encoders once more. Null holds all.
        frozen_outputs: a folder that keeps what a vision tower of which no block is trained gives of each clip, so that
            it is computed once for all runs with this tower, its taps and as many frames. Null computes it each time.
            It pays without a GPU.
        compile: what torch.compile compiles at the first step: ``blocks``, each transformer block; ``forward``, the
            whole forward pass; or ``none``.
    """

    output_dir: str = "runs/stoa"
    max_steps: int = 25_000
    optim: OptimConfig = field(default_factory=OptimConfig)
    seed: int = 0
    log_every: int = 10
    save_every: int = 500
    save_minutes: float | None = None
    save_in_background: bool = False
    on_save_failure: Literal["end", "go_on"] = "end"
    keep_checkpoints: int = 2
    skip_nonfinite: int = 0
    spike_factor: float | None = None
    spike_rollbacks: int = 3
    hang_minutes: float = 10.0
    tensorboard: bool = True
    chunk_clips: int | None = None
    frozen_outputs: str | None = None
    compile: Compiled = "none"

    def __post_init__(self) -> None:
        for name in ("max_steps", "log_every", "save_every", "keep_checkpoints"):
            if getattr(self, name) < 1:
                raise ValueError(f"training.{name} is {getattr(self, name)}; expected at least 1")
        if self.chunk_clips is not None and self.chunk_clips < 1:
            raise ValueError(f"training.chunk_clips is {self.chunk_clips}; expected at least 1, or null")
        if self.frozen_outputs is not None and self.compile == "forward":
            raise ValueError(
                "training.frozen_outputs is given and training.compile is 'forward', whose graph reads no files; set "
                "one of them to its default"
            )
        if self.save_minutes is not None and not self.save_minutes > 0:
            raise ValueError(f"training.save_minutes is {self.save_minutes}; expected more than 0, or null")
        for name in ("skip_nonfinite", "spike_rollbacks"):
            if getattr(self, name) < 0:
                raise ValueError(f"training.{name} is {getattr(self, name)}; expected 0 or more")
        if self.spike_factor is not None and not self.spike_factor > 1:
            raise ValueError(f"training.spike_factor is {self.spike_factor}; expected more than 1, or null")
        if not self.hang_minutes > 0:
            raise ValueError(f"training.hang_minutes is {self.hang_minutes}; expected more than 0")
        if self.seed < 0:
            raise ValueError(f"training.seed is {self.seed}; expected 0 or more")
