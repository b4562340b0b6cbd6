"""The protocol card: what a number was measured on, and how."""

from __future__ import annotations

import hashlib
from typing import Any

import stoa
from stoa.data.clips import Clips
from stoa.tasks.trained import TrainedModel
from stoa.training.state import commit, versions


def protocol_card(trained: TrainedModel, clips: Clips, manifest: str, split: str, **facts: Any) -> dict[str, Any]:
    """Data, model and code behind a report.

    Args:
        trained: the model.
        clips: of the split.
        manifest, split: their origin.
        facts: of the task.
    """
    parameter = next(trained.model.parameters())
    return {
        "manifest": manifest,
        "split": split,
        "split sha256": clips.fingerprint,
        "clip ids sha256": hashlib.sha256("\n".join(clips.ids()).encode()).hexdigest(),
        **facts,
        "frames": f"{trained.model.config.num_frames} by time, {trained.side} px",
        "precision": str(parameter.dtype).removeprefix("torch."),
        "device": str(trained.device),
        "evaluated at commit": commit(),
        "stoa": stoa.__version__,
        "versions": versions(),
        **trained.origin,
    }
