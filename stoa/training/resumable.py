"""What a run may be resumed with: a checkpoint's states depend on more than the model."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

from stoa.models.video_language import ModelConfig
from stoa.training.deepspeed_config import layout

# Keys of the model that change neither its weights nor its outputs.
_FREE_TO_CHANGE = {"activation_checkpointing"}
# Parts of the model by the key that leaves them out, where it is 0; their other keys then decide nothing.
_LEFT_OUT_BY = {"objects": "num_trajectories", "actions": "num_tokens", "graph": "layers"}


def require_same_run(saved: dict[str, Any], current: dict[str, Any], path: Path) -> None:
    """What a checkpoint's states depend on must be what this run has.

    Raises:
        ValueError: names the first difference and both values.
    """
    model = _built(_filled(saved["config"]["model"], asdict(ModelConfig()))), _built(current["config"]["model"])
    layouts = layout(saved["deepspeed_config"]), layout(current["deepspeed_config"])
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
