"""HTML in which every text is escaped, whoever forgets to."""

from __future__ import annotations

import html
from collections.abc import Iterable, Sequence
from typing import Any

from stoa.fields import printable

_LONGEST_TEXT = 600


class Html(str):
    """Markup that :func:`tag` has made; any other text is none."""

    __slots__ = ()


def text(value: Any) -> Html:
    """A value as text: of one line, cut where it is too long, without signs that do not print."""
    if isinstance(value, Html):
        return value
    said = str(value)
    return Html(html.escape(printable(said if len(said) <= _LONGEST_TEXT else said[:_LONGEST_TEXT] + "...")))


def tag(name: str, *children: Any, **attributes: Any) -> Html:
    """An element. Of an attribute's name an underscore is a hyphen, and one at the end is left out (``class_``)."""
    given = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{html.escape(printable(str(value)))}"'
        for key, value in attributes.items()
    )
    return Html(f"<{name}{given}>{join(children)}</{name}>")


def join(parts: Iterable[Any]) -> Html:
    return Html("".join(map(text, parts)))


def table(head: Sequence[Any], rows: Iterable[Sequence[Any]], *, words: int = 1) -> Html:
    """A table that scrolls by itself on a narrow screen.

    Args:
        head: of the columns; left out where all are empty.
        rows: cells.
        words: columns from the left that hold words; those after them hold numbers.
    """

    def cells(kind: str, row: Sequence[Any]) -> Html:
        return join(tag(kind, cell, class_="word" if at < words else "number") for at, cell in enumerate(row))

    body = tag("tbody", join(tag("tr", cells("td", row)) for row in rows))
    begun = tag("thead", tag("tr", cells("th", head))) if any(head) else Html("")
    return tag("div", tag("table", begun, body), class_="scroll")


def said(line: Any) -> Html:
    """A short line, as on what is not there."""
    return tag("p", line, class_="said")


def folded(title: Any, *children: Any) -> Html:
    """Shown when it is asked for."""
    return tag("details", tag("summary", title), *children)


def lines_of(content: str) -> Html:
    """A text of several lines as it is."""
    return tag("pre", join(Html(text(line) + "\n") for line in content.split("\n")))


def number(value: float) -> str:
    """With four digits; a whole one with all."""
    if isinstance(value, int) or (value == value and abs(value) < 1e15 and float(value).is_integer()):
        return f"{int(value):,}" if abs(value) < 1e15 else f"{float(value):.4g}"
    return f"{value:.4g}"
