"""YAML as recipes and plans have it: of plain values, each said once."""

from __future__ import annotations

import re
from collections.abc import Hashable
from typing import Any

import yaml

from stoa.arguments.messages import one_line

_MOST_VALUES, _MOST_CHARACTERS = 100_000, 1 << 20


class _Loader(yaml.SafeLoader):
    """Refuses keys that stand twice, of which YAML takes the last; reads 1e-4, which YAML 1.1 takes for text."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        seen: dict[Any, int] = {}
        for key, _ in node.value:
            line = key.start_mark.line + 1
            if not isinstance(key, yaml.ScalarNode):
                raise ValueError(f"line {line} has a list or an object for a key; keys are names")
            if key.tag != "tag:yaml.org,2002:merge" and key.value in seen:
                raise ValueError(f"{key.value} stands twice, in lines {seen[key.value]} and {line}; keep one")
            seen[key.value] = line
        return super().construct_mapping(node, deep)


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"[-+]?(\d[\d_]*)(\.[\d_]*)?[eE][-+]?\d+$"), list("-+0123456789")
)


def load_yaml(text: str) -> Any:
    """The value of a text.

    Raises:
        ValueError: it is not valid, a key stands twice, or it is too long, as it stands or by its aliases.
    """
    if len(text) > _MOST_CHARACTERS:
        raise ValueError(
            f"not valid YAML of ours: {len(text):,} characters; no more than {_MOST_CHARACTERS:,} are read"
        )
    try:
        loader = _Loader(text)
        try:
            node = loader.get_single_node()
            if node is None:
                return None
            if _values_in(node, {}) > _MOST_VALUES:
                raise ValueError(f"not valid YAML: more than {_MOST_VALUES:,} values, or one that holds itself")
            return loader.construct_document(node)
        finally:
            loader.dispose()
    except yaml.YAMLError as error:
        raise ValueError(f"not valid YAML: {_why(text, error)}") from None
    except RecursionError:
        raise ValueError("not valid YAML: it is nested without end") from None
    except (
        AttributeError,
        TypeError,
        KeyError,
        IndexError,
        OverflowError,
    ) as error:
        # Of a tag that its value is not of.
        raise ValueError(f"not valid YAML: {one_line(error)}; leave out its tags (!!...)") from None


def _values_in(node: yaml.Node, known: dict[int, float]) -> float:
    """What a node holds with its aliases written out; infinite where it holds itself."""
    if id(node) not in known:
        known[id(node)] = float("inf")
        inner = node.value if isinstance(node, yaml.CollectionNode) else ()
        parts = (part for item in inner for part in (item if isinstance(item, tuple) else (item,)))
        known[id(node)] = 1 + sum(_values_in(part, known) for part in parts)
    return known[id(node)]


def _why(text: str, error: yaml.YAMLError) -> str:
    mark = getattr(error, "problem_mark", None)
    if mark is None:
        return one_line(error)
    line = text.splitlines()[mark.line] if mark.line < len(text.splitlines()) else ""
    if "\t" in line[: len(line) - len(line.lstrip())]:
        return f"line {mark.line + 1} is indented with a tab; use spaces"
    return f"line {mark.line + 1}, column {mark.column + 1}: {getattr(error, 'problem', None) or one_line(error)}"
