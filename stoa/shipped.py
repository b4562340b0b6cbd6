"""Recipes, DeepSpeed configurations and a small model that come with the package."""

from __future__ import annotations

from pathlib import Path

FOLDERS = ("recipes", "ds_configs")
_PACKAGE = Path(__file__).resolve().parent

SMALL = _PACKAGE / "small"
"""An export of a model of both methods, trained on Moving Shapes; its card is README.md there."""


def folder(name: str) -> Path:
    """``recipes`` or ``ds_configs``: inside of an installed package, beside it in a checkout."""
    assert name in FOLDERS
    return _PACKAGE / name if (_PACKAGE / name).is_dir() else _PACKAGE.parent / name


def found(path: str) -> str:
    """A file as a command is given it: one that is there, else, of ``recipes/...`` and ``ds_configs/...``, the shipped
    one. So the same commands work in a checkout and in any other folder. What is neither stays as it is."""
    name, *inside = Path(path).parts or ("",)
    if name in FOLDERS and not Path(path).exists():
        shipped = folder(name).joinpath(*inside)
        if shipped.is_file():
            return str(shipped)
    return path


def named(path: Path) -> Path:
    """A shipped file as :func:`found` takes it in any folder: ``recipes/...``; another one as it is."""
    for name in FOLDERS:
        if path.is_relative_to(folder(name)):
            return Path(name, path.relative_to(folder(name)))
    return path
