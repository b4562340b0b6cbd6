"""Lists of class names: what the label of a box is an index into."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from stoa.files import write_whole
from stoa.text_files import nfc, parse_json, read_text


def read_class_names(path: str | os.PathLike[str]) -> list[str]:
    """Read the names of the classes, in the order of their labels 0, 1, ..., in Unicode NFC.

    Args:
        path: ``.json``: a list of names, or a label map whose ``label_to_idx`` (or the object itself) gives each name
            its number, in whose order the labels count from 0. Else one name a line, of which synonyms
            after a comma and columns after a tab are left out.

    Raises:
        ValueError: the file is missing, empty or malformed, or two names share a number.
    """
    path = Path(path)
    try:
        text = read_text(path, f"labels {path}")
    except OSError as error:
        raise ValueError(f"labels {path}: {error}; pass a list of class names (.json, .txt or .tsv)") from None
    if path.suffix == ".json":
        raw = parse_json(text, f"labels {path}")
        try:
            names = _from_json(raw)
        except (TypeError, ValueError) as error:
            raise ValueError(f"labels {path}: {error}") from None
    else:
        names = [line.split("\t")[0].split(",")[0].strip() for line in text.splitlines() if line.strip()]
    if not names:
        raise ValueError(f"labels {path}: no class name; expected a JSON list, a label map or one name a line")
    return list(map(nfc, names))


def write_class_names(path: Path, names: Sequence[str]) -> None:
    """Write ``labels.json``."""
    write_whole(path, json.dumps(list(names), ensure_ascii=False))


def label_of_name(names: Sequence[str]) -> dict[str, int]:
    """The label of each class; of names that stand twice, the first."""
    return {name: len(names) - 1 - index for index, name in enumerate(reversed(names))}


def _from_json(raw: Any) -> list[str]:
    if isinstance(raw, list) and all(isinstance(name, str) for name in raw):
        return raw
    numbers = raw.get("label_to_idx", raw) if isinstance(raw, dict) else None
    if not isinstance(numbers, dict) or not all(type(number) is int for number in numbers.values()):
        raise ValueError("neither a JSON list of names nor a map from names to numbers (label_to_idx)")
    if len(set(numbers.values())) != len(numbers):
        raise ValueError("two names of the label map share a number; give each class its own")
    return sorted(numbers, key=numbers.__getitem__)
