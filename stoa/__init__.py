"""Video-language pre-training with object trajectories, action tokens and spatio-temporal graphs.

Importing the package is cheap and loads no torch; :func:`load`, `stoa.ops`, `stoa.models` and the others do.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

    from stoa.api import Clip, Hit, Model, Videos

__version__ = "0.1.0"
__all__ = ["Clip", "Hit", "Model", "Videos", "load"]


def load(path: str | os.PathLike[str], *, device: str | torch.device | None = None) -> Model:
    """Open a trained model: see :func:`stoa.api.load`."""
    from stoa import api

    return api.load(path, device=device)


def __getattr__(name: str) -> Any:
    if name in __all__:
        from stoa import api

        return getattr(api, name)
    raise AttributeError(f"module 'stoa' has no attribute {name!r}")
