"""Where the page has the picture of what a model makes of a clip and a caption."""

from __future__ import annotations

from stoa.api import Clip, Model


def can_explain(model: Model) -> bool:
    return hasattr(model, "explain")


def explained_png(model: Model, clip: Clip, caption: str) -> bytes:
    """A PNG file.

    Raises:
        ValueError: the clip cannot be read.
    """
    from stoa.viz.explain import sheet_png

    return sheet_png(model.explain(clip, caption))
