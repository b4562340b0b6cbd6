"""A recipe's file, read strictly before the parser takes it: its form, its keys, and whether it is for this command."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

from stoa.arguments.given import text_of
from stoa.arguments.kinds import Kind, kind_of
from stoa.arguments.messages import nearest, one_line
from stoa.arguments.yaml_text import load_yaml
from stoa.fields import show


def read_recipe(path: str, keys: Collection[str], *, accepted: Collection[str]) -> dict[str, Any]:
    """The values of a recipe by their dotted names.

    Args:
        path: as given.
        keys: dotted names of all values that the command takes.
        accepted: kinds of recipes that it takes, as :data:`stoa.arguments.kinds.KINDS` calls them.

    Raises:
        ValueError: it is not there, not YAML, another kind of file, or a key is unknown, stands twice or holds nothing.
    """
    if path.startswith("--"):
        raise ValueError(f"--recipe has no value behind it, but {path}; name a YAML file, see recipes/")
    name = f"--recipe {path}"
    values = _parse(Path(path), name)
    kind = kind_of(values) if not isinstance(values, list) else None
    if not isinstance(values, dict):
        if isinstance(values, list) and (kind := kind_of(values[0] if values else None)) is None:
            raise ValueError(f"{name} holds a list; expected keys with values, such as those of recipes/stoa.yaml")
        if kind is None:
            what = "nothing" if values is None else show(values)
            raise ValueError(f"{name} holds {what}; expected keys with values, such as those of recipes/stoa.yaml")
    if kind is not None and kind.what not in accepted and (isinstance(values, list) or _foreign(values, keys)):
        raise ValueError(f"{name} is {kind.what}; {kind.where}{_and_for_this(kind, accepted)}")
    return flatten(values, keys, name)


def flatten(values: dict[Any, Any], keys: Collection[str], name: str, group: str = "") -> dict[str, Any]:
    """Nested values by their dotted names; ``name`` is where they stand, for messages, below ``group``.

    Raises:
        ValueError: a key is unknown, or a group of keys holds none.
    """
    groups = {".".join(key.split(".")[:depth]) for key in keys for depth in range(1, key.count(".") + 1)}
    return dict(_flat(values, f"{group}." if group else "", groups, keys, name))


def _foreign(values: dict[Any, Any], keys: Collection[str]) -> bool:
    return bool({str(key).split(".")[0] for key in values} - {key.split(".")[0] for key in keys})


def _and_for_this(kind: Kind, accepted: Collection[str]) -> str:
    if kind.option != "--recipe":
        return "; recipes/ holds recipes"
    folder = "recipes/finetune/" if "a recipe for fine-tuning" in accepted else "recipes/"
    return f", and this command one of {folder}"


def _flat(
    values: dict[Any, Any], prefix: str, groups: Collection[str], keys: Collection[str], name: str
) -> Iterator[tuple[str, Any]]:
    for key, value in values.items():
        dotted = f"{prefix}{key}"
        if dotted in groups:
            if not isinstance(value, dict):
                held = "holds nothing" if value is None else f"is {show(value)}"
                raise ValueError(f"{name}: {dotted} {held}; it is a group of keys: {_inside(dotted, keys)}")
            yield from _flat(value, f"{dotted}.", groups, keys, name)
        elif dotted in keys:
            yield dotted, value
        else:
            near = nearest(dotted, [*keys, *groups])
            hint = f"did you mean {near!r}?" if near else f"the keys are {_inside('', keys)}"
            raise ValueError(f"{name}: unknown key {show(dotted)}; {hint}")


def _inside(group: str, keys: Collection[str]) -> str:
    start = f"{group}." if group else ""
    return ", ".join(sorted({key.removeprefix(start).split(".")[0] for key in keys if key.startswith(start)}))


def _parse(path: Path, name: str) -> Any:
    text = text_of(path, name, (".yaml", ".yml"), "recipes")
    try:
        return load_yaml(text)
    except ValueError as error:
        if path.suffix in (".jsonl", ".csv"):
            raise ValueError(
                f"{name} is no recipe but a {path.suffix} file; give a manifest as --data.manifest"
            ) from None
        raise ValueError(f"{name}: {one_line(error)}") from None
