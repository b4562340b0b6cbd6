"""The text of a file that an option names."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from stoa.arguments.kinds import nearest_file
from stoa.shipped import folder
from stoa.text_files import read_text


def text_of(path: Path, name: str, suffixes: Sequence[str], shipped: str) -> str:
    """A whole file.

    Args:
        path: as given.
        name: what messages call it: the option and the path.
        suffixes: of files of this kind.
        shipped: folder of those that come with the package, one of :data:`stoa.shipped.FOLDERS`.

    Raises:
        ValueError: it is not there, a folder, not to be read, or not UTF-8. The message names the file that was most
            likely meant.
    """
    if path.is_dir():
        near = nearest_file(path, suffixes, also=[folder(shipped), path])
        raise ValueError(f"{name} is a folder; " + (f"did you mean {near}?" if near else "name a file"))
    try:
        return read_text(path, name)
    except FileNotFoundError:
        near = nearest_file(path, suffixes, also=[folder(shipped)])
        hint = f"did you mean {near}?" if near else f"{shipped}/ holds the ready ones"
        raise ValueError(f"{name} does not exist; {hint}") from None
    except OSError as error:
        raise ValueError(f"{name} cannot be read ({error.strerror})") from None
