"""What a run may be resumed with: a checkpoint's states depend on more than the model."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

from stoa.models.config import ModelConfig
from stoa.training.deepspeed_config import layout

# Keys of the model that change neither its weights nor its outputs.
_FREE_TO_CHANGE = {"activation_checkpointing"}
_DEEPSPEED = "DeepSpeed"
# Parts of the model by the key that leaves them out, where it is 0; their other keys then decide nothing.
_LEFT_OUT_BY = {"objects": "num_trajectories", "actions": "num_tokens", "graph": "layers"}


def require_same_run(saved: dict[str, Any], current: dict[str, Any], path: Path, *, reshaped: bool = False) -> None:
    """What a checkpoint's states depend on must be what this run has.

    Args:
        saved: ``run.json`` of the checkpoint.
        current: the same of this run.
        path: of the checkpoint, for messages.
        reshaped: stage of ZeRO, precision and accumulation may be others.

    Raises:
        ValueError: names the first difference and both values.
    """
    model = _built(_filled(saved["config"]["model"], asdict(ModelConfig()))), _built(current["config"]["model"])
    layouts = layout(saved["deepspeed_config"]), layout(current["deepspeed_config"])
    parts = [
        ("model", "another model", *model),
        ("architecture", "another model", saved["architecture"], current["architecture"]),
        ("training.optim", "an optimiser of other parameters", _trained(saved["config"]), _trained(current["config"])),
        (_DEEPSPEED, "another DeepSpeed configuration", *layouts),
        ("fine-tuning", "another fine-tuning", _started_from(saved), _started_from(current)),
    ]
    for part, what, old, new in parts:
        for key, (before, now) in sorted(_differences(old, new)):
            if key in _FREE_TO_CHANGE or (part == _DEEPSPEED and reshaped):
                continue
            remedy = ", or go on with this one by --resume-reshaped" if part == _DEEPSPEED else ""
            raise ValueError(
                f"checkpoint {path} is of {what}: {part}.{key} is {before!r} there and {now!r} here; "
                f"choose another training.output_dir, or give the checkpoint's value{remedy}"
            )


class Shape(NamedTuple):
    """How a training is spread over processes."""

    processes: int
    micro_batch: int
    accumulation: int
    stage: int
    precision: str

    @classmethod
    def of(cls, run: dict[str, Any]) -> Shape:
        """That of a checkpoint's ``run.json``."""
        deepspeed = run["deepspeed_config"]
        on = layout(deepspeed)
        return cls(
            run["sampler"]["world"],
            deepspeed["train_micro_batch_size_per_gpu"],
            deepspeed.get("gradient_accumulation_steps", 1),
            on["ZeRO stage"],
            next((name for name in ("fp16", "bf16") if on[name]), on["torch_autocast"] or "fp32"),
        )

    @property
    def batch(self) -> int:
        """Clips that share a contrastive loss."""
        return self.processes * self.micro_batch

    def __str__(self) -> str:
        passes = f" x {self.accumulation} passes" if self.accumulation > 1 else ""
        return f"{self.processes} process(es) x {self.micro_batch} clips{passes}, ZeRO {self.stage}, {self.precision}"


def require_same_steps(before: Shape, current: Shape, path: Path) -> None:
    """Of a run whose length is told in epochs: its steps so far have to mean what those to come do.

    Raises:
        ValueError: an optimiser step has other clips; the message gives both shapes.
    """
    clips = [shape.batch * shape.accumulation for shape in (before, current)]
    if clips[0] != clips[1]:
        raise ValueError(
            f"checkpoint {path} is of a run of so many epochs, with {clips[0]} clips a step ({before}); here they are "
            f"{clips[1]} ({current}), and its steps could not be counted on: choose micro-batch and "
            "gradient_accumulation_steps in the DeepSpeed config such that they are as many"
        )


def reshaping(saved: dict[str, Any], current: Shape) -> str | None:
    """What another shape means for a run, in one line; ``None`` where it is the same."""
    before = Shape.of(saved)
    if before == current:
        return None
    order = "the same clips in the same batches"
    if before.batch != current.batch:
        order = (
            f"batches of {current.batch} clips in place of {before.batch}, behind the {saved['sampler']['taken']} of "
            f"epoch {saved['sampler']['epoch']} that were taken, in the same order"
        )
    return f"reshaped from {before} to {current}: {order}"


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


def _built(model: dict[str, Any]) -> dict[str, Any]:
    """The values of a model's configuration that decide something."""
    left_out = {name: {key: 0} for name, key in _LEFT_OUT_BY.items() if not model[name][key]}
    return {**model, **left_out}


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
