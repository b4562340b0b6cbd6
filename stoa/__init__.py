"""Video-language pre-training with object trajectories, action tokens and spatio-temporal graphs.

Importing the package is cheap and loads no torch; :func:`load`, `stoa.ops`, `stoa.models` and the others do.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pathlib import Path

    import torch

    from stoa.api import Clip, Explanation, Hit, Model, Videos

__version__ = "0.1.0"
__all__ = ["Clip", "Explanation", "Hit", "Model", "Videos", "load", "save_explanation"]


def load(path: str | os.PathLike[str], *, device: str | torch.device | None = None) -> Model:
    """Open a trained model: see :func:`stoa.api.load`."""
    from stoa import api

    return api.load(path, device=device)


def save_explanation(explanation: Explanation, folder: str | os.PathLike[str]) -> list[Path]:
    """Write a picture, a page and a film of it: see :func:`stoa.viz.explain.save_explanation`."""
    from stoa.viz.explain import save_explanation

    return save_explanation(explanation, folder)


def __getattr__(name: str) -> Any:
    if name in __all__:
        from stoa import api

        return getattr(api, name)
    raise AttributeError(f"module 'stoa' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
