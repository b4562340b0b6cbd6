"""The index that a command is given."""

from __future__ import annotations

from pathlib import Path

from stoa.api import Model
from stoa.search.index import Index, models_in

FOLDER = ".stoa-index"
"""Of the indices of a folder of videos, in that folder."""


def folder_of(given: Path) -> Path:
    """The folder of indices that is meant by itself, or by the folder of the videos."""
    return given / FOLDER if not models_in(given) else given


def open_index(given: Path, model: Model) -> Index:
    """The index of a model.

    Args:
        given: folder of videos that ``stoa index`` was called with, or of the index.
        model: that it was made with.

    Raises:
        ValueError: there is none, it is of another model, or damaged.
    """
    return Index(folder_of(given), model.key, model.width)
