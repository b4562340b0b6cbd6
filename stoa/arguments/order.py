"""The order of a command line."""

from __future__ import annotations

from collections.abc import Sequence

from stoa.shipped import found


def recipe_first(arguments: Sequence[str], *, default: str | None = None) -> list[str]:
    """Puts ``--recipe FILE`` before the options, which override a recipe wherever they stand.

    The parser lets what comes later win, so that a recipe at the end would undo options without a word.

    Args:
        arguments: of a command.
        default: recipe where they name none.
    """
    recipes, options = list[str](), list[str]()
    remaining = iter(arguments)
    for argument in remaining:
        if argument == "--recipe":
            recipes += [argument, *(found(value) for value in [next(remaining, None)] if value is not None)]
        elif argument.startswith("--recipe="):
            recipes.append(f"--recipe={found(argument.removeprefix('--recipe='))}")
        else:
            options.append(argument)
    if not recipes and default is not None:
        recipes = ["--recipe", found(default)]
    return recipes + options
