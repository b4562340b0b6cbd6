"""What is said about a command line or a recipe that is wrong: values in place of the parser's types."""

from __future__ import annotations

import argparse
import difflib
import re
import types
from collections.abc import Iterable, Mapping
from typing import Any, Literal, Union, get_args, get_origin

import yaml

_TYPED_KEY = re.compile(r'Parser key "(?P<key>[\w.]+)":')
_MISSING = re.compile(r"the following arguments are required: (?P<keys>.*)|Key \"(?P<key>[\w.]+)\" is required")
_NO_VALUE = re.compile(r"argument (?P<option>--?[\w./-]+): expected (?:one|at least one) argument")
_UNASKED = re.compile(r"argument (?P<option>--?[\w./-]+): ignored explicit argument (?P<value>.*)")

_UNASKED_WORD = re.compile(r"unrecognized arguments: (?P<words>.*)")


def one_line(text: object) -> str:
    return " ".join(str(text).split())


def alternatives(typehint: Any) -> list[str]:
    """What a value of a type may be, in words; a literal stands for itself."""
    origin, arguments = get_origin(typehint), get_args(typehint)
    if origin in (Union, types.UnionType):
        return [word for member in arguments for word in alternatives(member)]
    if origin is Literal:
        return [_literal(value) for value in arguments]
    if typehint in (None, type(None)):
        return ["null"]
    if typehint is bool:
        return ["true", "false"]
    if origin is list or (origin is tuple and arguments[-1:] == (Ellipsis,)):
        return [f"a list such as [{', '.join(_example(alternatives(arguments[0])))}]"]
    if origin is tuple:
        return [f"{len(arguments)} values such as [{', '.join(_example(['1', '2', '3', '4'])[: len(arguments)])}]"]
    restricted = getattr(typehint, "_expression", None)
    if restricted is not None:  # PositiveInt and the like
        return [f"{_noun(typehint)}, {restricted.replace('v>0', 'more than 0').replace('v>=0', '0 or more')}"]
    return [_noun(typehint)]


def _noun(typehint: Any) -> str:
    if isinstance(typehint, type):
        for kind, noun in ((int, "a whole number"), (float, "a number"), (str, "text")):
            if issubclass(typehint, kind):
                return noun
    return "what it takes"


def _literal(value: Any) -> str:
    return "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value)


def _example(words: list[str]) -> list[str]:
    return [word for word in words if not word.startswith("a ")] or ["...", "..."]


def not_of(value: str, typehint: Any) -> str:
    """That a value is not of a type: ``'two' is none of one, all``."""
    words = alternatives(typehint)
    literal = [word for word in words if not word.startswith(("a ", "text"))]
    if len(words) == 1:
        word = words[0]
        return f"{value!r} is not {word}" if literal else f"{value!r} is no {word.removeprefix('a ')}"
    if len(words) == 2 and len(literal) < 2 or words == ["true", "false"]:
        said = f"{value!r} is neither {words[0]} nor {words[1]}"
    else:
        said = f"{value!r} is none of {', '.join(words)}"
    close = difflib.get_close_matches(value, literal, n=1)
    return said + (f"; did you mean {close[0]!r}?" if close else "")


def nearest(unknown: str, known: Iterable[str]) -> str | None:
    """The name that an unknown one was most likely meant to be; a known last part, or group, counts."""
    known = list(known)
    unknown = unknown.replace("-", "_")
    last = unknown.rsplit(".", 1)[-1]
    same = [name for name in known if name.rsplit(".", 1)[-1] == last]
    close = difflib.get_close_matches(unknown, same, n=1, cutoff=0.0) if same else []
    close = close or difflib.get_close_matches(unknown, known, n=1, cutoff=0.6)
    if not close:
        leaves = difflib.get_close_matches(last, [name.rsplit(".", 1)[-1] for name in known], n=1, cutoff=0.75)
        close = [name for name in known if leaves and name.rsplit(".", 1)[-1] == leaves[0]]
    return close[0] if close else None


def explain(error: Exception, actions: Mapping[str, argparse.Action], given: Mapping[str, tuple[str, Any]]) -> str:
    """The parser's error in one line.

    Args:
        error: what it raised.
        actions: of the parser, by key.
        given: of each key that was given, where (``--key``, or file and key), and its value.
    """
    line = one_line(error)
    if (found := _TYPED_KEY.search(line)) is not None and found["key"] in actions:
        key = found["key"]
        where, value = given.get(key, (f"--{key}", _value_in(line)))
        return f"{where}: {_of_type(value, getattr(actions[key], '_typehint', None) or actions[key].type)}"
    if (found := _MISSING.search(line)) is not None:
        keys = [key.strip() for key in (found["keys"] or found["key"]).split(",")]
        names = [f"--{key}" if getattr(actions.get(key), "option_strings", [""]) else key for key in keys]
        are, they = ("are", "they") if len(names) > 1 else ("is", "it")
        return f"{' and '.join(names)} {are} missing; --help says what {they} take{'' if len(names) > 1 else 's'}"
    if (found := _NO_VALUE.search(line)) is not None:
        return f"{found['option']} has no value behind it; --help says what it takes"
    if (found := _UNASKED.search(line)) is not None:
        return f"{found['option']} takes no value and was given {found['value']}; leave that out"
    if (found := _UNASKED_WORD.search(line)) is not None:
        word = found["words"].split()[0]
        suffixes = {".yaml": "--recipe", ".yml": "--recipe", ".json": "--deepspeed_config"}
        option = next((o for end, o in suffixes.items() if word.endswith(end) and o[2:] in actions), None)
        return f"{word} stands behind no option; " + (f"did you mean {option} {word}?" if option else "leave it out")
    return line


def _of_type(value: Any, typehint: Any) -> str:
    text = value if isinstance(value, str) else _yaml(value)
    whole = [word for word in alternatives(typehint) if word.startswith("a whole number")]
    said = not_of(text, typehint)
    try:
        number = float(text)
        if whole and number.is_integer() and abs(number) < 2**53 and str(int(number)) != text:
            return f"{said}; write {int(number)}"
    except ValueError:
        pass
    return said


def _value_in(line: str) -> str:
    found = re.search(r"(?:Got value|Given value): (.*)$", line) or re.search(r"Not of type \w+: (\S*)", line)
    return found[1] if found else ""


def _yaml(value: Any) -> str:
    return yaml.dump(value, default_flow_style=True, width=10**6).removesuffix("\n").removesuffix("\n...")
