"""The protocol card: what a number was measured on, and how."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

import stoa
from stoa.data.clips import Clips
from stoa.tasks.trained import TrainedModel
from stoa.training.state import commit, versions

_DATA = ("split sha256", "questions sha256", "hard sets sha256")


def data_card(clips: Clips, manifest: str, split: str) -> dict[str, Any]:
    """Data and code behind a report.

    Args:
        clips: of the split.
        manifest, split: their origin.
    """
    return {
        "manifest": manifest,
        "split": split,
        "split sha256": clips.fingerprint,
        "clip ids sha256": hashlib.sha256("\n".join(clips.ids()).encode()).hexdigest(),
        "evaluated at commit": commit(),
        "stoa": stoa.__version__,
        "versions": versions(),
    }


def protocol_card(trained: TrainedModel, clips: Clips, manifest: str, split: str, **facts: Any) -> dict[str, Any]:
    """Data, code and model behind a report.

    Args:
        trained: the model.
        clips: of the split.
        manifest, split: their origin.
        facts: of the task.
    """
    parameter = next(trained.model.parameters())
    return {
        **data_card(clips, manifest, split),
        **facts,
        "frames": f"{trained.model.config.num_frames} by time, {trained.side} px",
        "text": f"{trained.model.config.max_tokens} tokens",
        "precision": str(parameter.dtype).removeprefix("torch."),
        "device": str(trained.device),
        **trained.origin,
    }


def data_sha256(card: Mapping[str, Any]) -> str:
    """Of the clips, captions, questions and hard sets of a card: two reports with the same one can be compared."""
    return hashlib.sha256(repr([card.get(name) for name in _DATA]).encode()).hexdigest()
