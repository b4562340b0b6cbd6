"""What a file is that was given where another kind is wanted, and which file was meant by a name that is not there."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from stoa.arguments.yaml_text import load_yaml
from stoa.shipped import named


class Kind(NamedTuple):
    """A kind of file of this project: what it is, where it goes, and keys that no other kind has."""

    what: str
    where: str
    option: str
    keys: frozenset[str]


KINDS = (
    Kind(
        "a configuration of DeepSpeed",
        "give it as --deepspeed_config",
        "--deepspeed_config",
        frozenset({"train_micro_batch_size_per_gpu", "train_batch_size", "zero_optimization", "fp16", "bf16"}),
    ),
    Kind("a plan", "give it to stoa ablate", "plan", frozenset({"cells", "matrix", "passes", "tables"})),
    Kind(
        "the configuration of an exported model",
        "give its folder as --run",
        "--run",
        frozenset({"weights_sha256", "abilities"}),
    ),
    Kind(
        "the record of a checkpoint",
        "give its folder as --run or --init",
        "--run",
        frozenset({"config", "deepspeed_config", "versions", "commit"}),
    ),
    Kind("a row of a manifest", "give the file as --data.manifest", "--data.manifest", frozenset({"video", "caption"})),
    Kind(
        "a recipe for fine-tuning",
        "give it to stoa finetune as --recipe",
        "--recipe",
        frozenset({"task", "epochs", "validation", "questions", "max_answers", "run"}),
    ),
    Kind("a recipe for pre-training", "give it to train.py as --recipe", "--recipe", frozenset({"model", "init"})),
    Kind("a recipe", "give it as --recipe", "--recipe", frozenset({"data", "objectives", "training"})),
)


def kind_of(given: Any) -> Kind | None:
    """The kind of what a file holds, its text or what was read of it; ``None`` is none of this project's."""
    if isinstance(given, str):
        try:
            given = load_yaml(given)
        except ValueError:
            return None
    if not isinstance(given, dict):
        return None
    top = {str(key).split(".")[0] for key in given}
    return next((kind for kind in KINDS if top & kind.keys), None)


def nearest_file(wanted: Path, suffixes: str | Sequence[str], *, also: Iterable[str | Path] = ()) -> Path | None:
    """The file that ``wanted`` was most likely meant to be: beside it, or in one of the folders ``also``."""
    suffixes = (suffixes,) if isinstance(suffixes, str) else tuple(suffixes)
    beside = wanted.parent if wanted.parent.is_dir() else None
    found: dict[Path, float] = {}
    for folder in [*([] if beside is None else [beside]), *map(Path, also)]:
        for file in folder.glob("*") if folder == beside else folder.rglob("*"):
            if file.suffix in suffixes and file.is_file():
                found.setdefault(file, _likeness(wanted, file, folder))
    best = max(found, key=lambda file: (found[file], -len(file.parts)), default=None)
    return named(best) if best is not None and found[best] >= 0.6 else None


def _likeness(wanted: Path, file: Path, folder: Path) -> float:
    name = str(wanted.with_suffix("")) if wanted.name else str(wanted)
    forms = (str(named(file).with_suffix("")), str(file.relative_to(folder).with_suffix("")))
    whole = max(difflib.SequenceMatcher(None, name, form).ratio() for form in forms)
    return max(whole, 0.95 * difflib.SequenceMatcher(None, wanted.stem, file.stem).ratio())
