"""From the words of a command line to checked values."""

from __future__ import annotations

import argparse
import math
import os
import re
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jsonargparse

from stoa.arguments.messages import alternatives, explain, nearest, not_of, one_line
from stoa.arguments.needs import Idle, Need, idle
from stoa.arguments.order import recipe_first
from stoa.arguments.recipes import flatten, read_recipe
from stoa.arguments.yaml_text import load_yaml
from stoa.fields import show

_NO_RECIPE_KEYS = {"recipe", "help", "version", "print_config"}
_TOO_LARGE = "expected a number of less than 19 digits"


class Given(NamedTuple):
    """A value as it was given: where (``--key``, or the recipe and the key), and what."""

    where: str
    value: Any
    in_recipe: bool


class Command(NamedTuple):
    """What there is to know of a command beside its options.

    Attributes:
        needs: which values do nothing unless others are set.
        recipes: kinds of recipes that it takes, see :data:`stoa.arguments.kinds.KINDS`.
        settle: looks at what was given and changes the parsed values where one excludes another; gives lines to say.
        default_recipe: taken where none is given.
    """

    needs: tuple[Need, ...] = ()
    recipes: tuple[str, ...] = ()
    settle: Callable[[Mapping[str, Given], jsonargparse.Namespace], list[str]] | None = None
    default_recipe: str | None = None


def parse(parser: jsonargparse.ArgumentParser, arguments: Sequence[str], command: Command) -> jsonargparse.Namespace:
    """Parse, check and instantiate the options of a command. What a recipe holds that options make idle is said.

    Raises:
        ValueError: an option, a key of a recipe or a value is wrong, or does nothing; one line that names it.
    """
    arguments = recipe_first(arguments, default=command.default_recipe)
    options = {name: action for action in parser._actions for name in action.option_strings}
    actions = {action.dest: action for action in parser._actions}
    typed = dict(_typed(arguments, options))
    recipe = dict[str, Given]()
    for path in _recipes(arguments):
        for key, value in read_recipe(path, actions.keys() - _NO_RECIPE_KEYS, accepted=command.recipes).items():
            recipe[key] = Given(f"--recipe {path}: {key}", value, in_recipe=True)
    given = {**recipe, **typed}
    for key, (where, value, _) in given.items():
        typehint = getattr(actions[key], "_typehint", None)
        if value is None and typehint is not None and "null" not in alternatives(typehint):
            raise ValueError(f"{where}: {not_of('null', typehint)}")  # the parser takes it for a value left out
    try:
        values = parser.parse_args(arguments)
        said = [] if command.settle is None else command.settle(given, values)
        _require_finite(values, given)
        said += _require_used(values, parser.get_defaults(), given, recipe, command.needs)
        instantiated = parser.instantiate(values)
    except (argparse.ArgumentError, jsonargparse.ArgumentError, TypeError) as error:
        told = {key: (value.where, value.value) for key, value in given.items()}
        raise ValueError(explain(error, actions, told)) from None
    except OverflowError:  # of the parser, which makes a float of a whole number
        where, value, _ = max(
            given.values(), key=lambda one: max(map(len, re.findall(r"\w+", str(one.value))), default=0)
        )
        raise ValueError(f"{where} is {show(value)}; {_TOO_LARGE}") from None
    except ValueError as error:
        raise ValueError(one_line(error)) from None
    if os.environ.get("RANK", "0") == "0":
        for line in said:
            print(line, flush=True)
    return instantiated


def _recipes(arguments: Sequence[str]) -> Iterator[str]:
    """As :func:`recipe_first` has left them."""
    remaining = iter(arguments)
    for word in remaining:
        if word.startswith("--recipe="):
            yield word.removeprefix("--recipe=")
        elif word == "--recipe" and (following := next(remaining, None)) is not None:
            yield following


def _typed(arguments: Sequence[str], options: Mapping[str, argparse.Action]) -> Iterator[tuple[str, Given]]:
    """The options on the command line.

    Raises:
        ValueError: there is none of this name.
    """
    dests = [action.dest for action in options.values()]
    remaining = iter(arguments)
    for word in remaining:
        if word == "--":
            return
        if not word.startswith(("-", "\u2013", "\u2014")) or _is_number(word):
            continue
        name, equals, value = word.partition("=")
        if name not in options:
            raise ValueError(_unknown_option(name, options))
        action = options[name]
        if action.nargs != 0 and not equals:
            value = next(remaining, "")
        inside = [key for key in dests if key.startswith(f"{action.dest}.")]
        if not inside:
            yield action.dest, Given(name, value, in_recipe=False)
            continue
        try:
            group = load_yaml(value)
        except ValueError as error:
            raise ValueError(f"{name}: {error}") from None
        if not isinstance(group, dict):
            raise ValueError(f"{name} is {value!r}; it is a group of keys, such as {name}.{inside[0].split('.')[1]}")
        for key, part in flatten(group, inside, name, action.dest).items():
            yield key, Given(f"--{key}", part, in_recipe=False)


def _unknown_option(name: str, options: Collection[str]) -> str:
    long = sorted(option.removeprefix("--") for option in options if option.startswith("--"))
    near = nearest(name.lstrip("-\u2013\u2014"), long)
    return f"unknown option {name}; " + (f"did you mean --{near}?" if near else "--help lists the options")


def _is_number(word: str) -> bool:
    try:
        float(word)
    except ValueError:
        return False
    return True


def _require_finite(values: jsonargparse.Namespace, given: Mapping[str, Given]) -> None:
    for key, value in vars(values.as_flat()).items():
        parts = value if isinstance(value, list | tuple) else [value]
        where = given[key].where if key in given else f"--{key}"
        if any(isinstance(part, float) and not math.isfinite(part) for part in parts):
            raise ValueError(f"{where} is {value}; expected a finite number")
        if any(isinstance(part, int) and abs(part) >= 10**18 for part in parts):
            raise ValueError(f"{where} is {show(value)}; {_TOO_LARGE}")


def _require_used(
    values: jsonargparse.Namespace,
    defaults: jsonargparse.Namespace,
    given: Mapping[str, Given],
    recipe: Mapping[str, Given],
    needs: tuple[Need, ...],
) -> list[str]:
    """What a recipe holds that an option has made idle, in lines to say.

    Raises:
        ValueError: an option does nothing, or what a recipe holds does nothing in it.
    """
    standard = vars(defaults.as_flat())
    in_recipe = {
        item.key for item in idle({**_known(standard), **{k: g.value for k, g in recipe.items()}}, standard, needs)
    }
    made_idle = dict[str, list[Idle]]()
    for item in idle(vars(values.as_flat()), standard, needs):
        if item.key not in given:
            continue
        if not given[item.key].in_recipe or item.key in in_recipe:
            raise ValueError(item.refusal(given[item.key].where))
        made_idle.setdefault(item.because, []).append(item)
    lines = list[str]()
    for because, items in made_idle.items():
        does = "does" if len(items) == 1 else "do"
        lines.append(f"of the recipe {', '.join(item.key for item in items)} {does} nothing: {because}")
    return lines


def _known(defaults: Mapping[str, Any]) -> dict[str, Any]:
    """Defaults but for what has to be given, of which a recipe alone may be silent."""
    return {key: value for key, value in defaults.items() if key != "task"}


def require_used(values: Mapping[str, Any], defaults: Mapping[str, Any], needs: tuple[Need, ...]) -> None:
    """As :func:`parse` does, for a command that knows only later what its values depend on.

    Raises:
        ValueError: a value does nothing.
    """
    for item in idle(values, defaults, needs):
        raise ValueError(item.refusal(f"--{item.key}"))
