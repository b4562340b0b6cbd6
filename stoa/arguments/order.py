"""The order of a command line."""

from __future__ import annotations

from collections.abc import Sequence


def recipe_first(arguments: Sequence[str]) -> list[str]:
    """Puts ``--recipe FILE`` before the options, which override a recipe wherever they stand.

    The parser lets what comes later win, so that a recipe at the end would undo options without a word.
    """
    recipes, options = list[str](), list[str]()
    remaining = iter(arguments)
    for argument in remaining:
        if argument == "--recipe":
            recipes += [argument, *(value for value in [next(remaining, None)] if value is not None)]
        elif argument.startswith("--recipe="):
            recipes.append(argument)
        else:
            options.append(argument)
    return recipes + options
