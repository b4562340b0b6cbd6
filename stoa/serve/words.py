"""Hits as the page shows them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import PurePath

from stoa.search.query import Found, Place
from stoa.serve.library import is_played


@dataclass(frozen=True, slots=True)
class Card:
    """A hit.

    Attributes:
        number: of the video in the index.
        name, folder: of the video.
        start_seconds, end_seconds: of the window.
        at: the same in words.
        verdict: how sure it is.
        figures: what that was read from.
        sources: addresses to play it from, the first of which the browser can is played.
        also: where the same is to be seen.
    """

    number: int
    name: str
    folder: str
    start_seconds: float
    end_seconds: float
    at: str
    verdict: str
    figures: str
    sources: tuple[str, ...]
    also: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Results:
    """What a search has found.

    Attributes:
        sure: hits that are confident.
        others: the nearest ones besides.
    """

    sure: list[Card]
    others: list[Card]


def results_of(found: Sequence[Found], *, by_text: bool) -> Results:
    cards = [(_card(hit, by_text), hit.confident) for hit in found]
    return Results([card for card, sure in cards if sure], [card for card, sure in cards if not sure])


def clock(seconds: float) -> str:
    """``0:07.5``, ``1:02:03``."""
    tenths = round(10 * seconds)
    minutes, rest = divmod(tenths, 600)
    hours, minutes = divmod(minutes, 60)
    shown = f"{rest // 10:02d}" + (f".{rest % 10}" if rest % 10 else "")
    return f"{hours}:{minutes:02d}:{shown}" if hours else f"{minutes}:{shown}"


def _card(hit: Found, by_text: bool) -> Card:
    place, path = hit.place, PurePath(hit.place.video)
    figures = [] if hit.match is None else [f"match {hit.match:.0%}"]
    parts = f"start={place.start_seconds!r}&end={place.end_seconds!r}"
    played = f"/videos/{hit.file}#t={place.start_seconds:g},{place.end_seconds:g}"
    cut = f"/videos/{hit.file}/part?{parts}"
    return Card(
        number=hit.file,
        name=path.name,
        folder="" if str(path.parent) == "." else str(path.parent),
        start_seconds=place.start_seconds,
        end_seconds=place.end_seconds,
        at=_at(place),
        verdict=_verdict(hit) if by_text else _likeness(hit.cosine),
        figures=", ".join([*figures, f"cosine {hit.cosine:.2f}"]),
        sources=(played, cut) if is_played(place.video) else (cut,),
        also=tuple(f"{other.video}, {_at(other)}" for other in hit.also),
    )


def _at(place: Place) -> str:
    return f"{clock(place.start_seconds)} to {clock(place.end_seconds)}"


def _verdict(hit: Found) -> str:
    if hit.confident:
        return "Very likely" if hit.match is not None and hit.match >= 0.9 else "Likely"
    return "Unlikely" if hit.match is not None and hit.match < 0.1 else "Unsure"


def _likeness(cosine: float) -> str:
    limits = ((0.95, "Looks the same"), (0.8, "Looks alike"), (0.6, "Looks somewhat alike"))
    return next((words for least, words in limits if cosine > least), "Looks different")
