"""An explanation as files: a picture, a page and a film."""

from __future__ import annotations

import io
import os
from collections.abc import Callable
from pathlib import Path

from PIL import Image
from PIL.PngImagePlugin import PngInfo

from stoa.files import making, read_small, replacing
from stoa.tasks.explanation import Explanation
from stoa.viz.film import film_bytes
from stoa.viz.frames import Layer, draw_frame
from stoa.viz.page import page
from stoa.viz.sheet import draw_sheet

MARK = "made by stoa explain"
"""Stands in every file, by which it is known again and may be replaced."""

NAMES = ("explain.png", "explain.html", "explain.mp4")


def sheet_png(explanation: Explanation) -> bytes:
    """The whole picture: all frames with trajectories, attention and edges."""
    return _png(draw_sheet(explanation))


def frame_png(explanation: Explanation, t: int, side: int = 512, layer: Layer = "tracks", *, action: int = 0) -> bytes:
    """One frame with one layer on it; see :func:`stoa.viz.frames.draw_frame`."""
    return _png(draw_frame(explanation, t, side, layer, action=action))


def page_html(explanation: Explanation) -> str:
    """A page that needs nothing else."""
    return page(explanation, MARK)


def save_explanation(
    explanation: Explanation, folder: str | os.PathLike[str], *, written: Callable[[Path], None] = lambda path: None
) -> list[Path]:
    """Write ``explain.png``, ``explain.html`` and ``explain.mp4``, each whole or not at all.

    Args:
        explanation: what to show.
        folder: made if it is not there; files of these names that this function has not written are left alone.
        written: called with each file as soon as it is there.

    Raises:
        ValueError: the folder holds something else of these names, or is a file.
        StorageError: the disk refuses.
    """
    folder = Path(folder)
    require_replaceable(folder, "folder")
    makers: tuple[Callable[[], bytes], ...] = (
        lambda: sheet_png(explanation),
        lambda: page_html(explanation).encode(),
        lambda: film_bytes(explanation, comment=MARK),
    )
    paths = [folder / name for name in NAMES]
    with making(folder, "folder"):
        for path, make in zip(paths, makers, strict=True):
            content = make()
            with replacing(path) as temporary:
                temporary.write_bytes(content)
            written(path)
    return paths


def require_replaceable(folder: Path, option: str) -> None:
    """Find out before the work whether a folder holds what is not to be replaced.

    Raises:
        ValueError: it does; or one of the files is a link, which may lead anywhere.
    """
    for name in NAMES:
        path = folder / name
        if os.path.lexists(path) and not _is_ours(path):
            raise ValueError(
                f"{option} is {folder}, where {name} is not of stoa explain; move it away, or name another folder"
            )


def _is_ours(path: Path) -> bool:
    try:
        return not path.is_symlink() and MARK.encode() in read_small(path)
    except (OSError, ValueError):  # a folder, a pipe, or larger than such a file can be
        return False


def _png(image: Image.Image) -> bytes:
    facts, file = PngInfo(), io.BytesIO()
    facts.add_text("Software", MARK)
    image.save(file, "png", pnginfo=facts)
    return file.getvalue()
