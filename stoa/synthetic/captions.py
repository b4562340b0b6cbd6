"""Captions of stories, with the character spans of their nouns and verbs and the labels of the nouns."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from stoa.manifest import Caption, Span
from stoa.synthetic.actions import FAMILIES
from stoa.synthetic.scene import SHAPES, Role, Story

PHRASES: dict[str, tuple[tuple[str, str], ...]] = {
    "move_right": (("moves", "right"), ("slides", "right"), ("travels", "right")),
    "move_left": (("moves", "left"), ("slides", "left"), ("travels", "left")),
    "move_down": (("moves", "down"), ("slides", "down"), ("travels", "down")),
    "move_up": (("moves", "up"), ("slides", "up"), ("travels", "up")),
    "grow": (("grows", ""), ("gets", "bigger"), ("becomes", "larger")),
    "shrink": (("shrinks", ""), ("gets", "smaller"), ("becomes", "smaller")),
    "bounce": (("bounces", ""), ("hops", ""), ("jumps", "up and down")),
    "sway": (("sways", ""), ("swings", "sideways"), ("shakes", "sideways")),
    "spin_clockwise": (("spins", "clockwise"), ("rotates", "clockwise"), ("turns", "clockwise")),
    "spin_counterclockwise": (
        ("spins", "counterclockwise"),
        ("rotates", "counterclockwise"),
        ("turns", "counterclockwise"),
    ),
    "ripple_outward": (("ripples", "outward"), ("flows", "outward"), ("streams", "outward")),
    "ripple_inward": (("ripples", "inward"), ("flows", "inward"), ("streams", "inward")),
    "brighten": (("brightens", ""), ("gets", "brighter"), ("becomes", "brighter")),
    "darken": (("darkens", ""), ("gets", "darker"), ("becomes", "darker")),
    "change_colour": (("changes", "from {start} to {end}"), ("switches", "from {start} to {end}")),
    "flash": (("flashes", ""), ("blinks", ""), ("flickers", "")),
    "pulse": (("pulses", ""), ("throbs", ""), ("glows", "and fades")),
    "rock": (("rocks", ""), ("wobbles", ""), ("tilts", "back and forth")),
    "chase": (("chases", ""), ("follows", ""), ("pursues", "")),
    "orbit": (("orbits", ""), ("revolves", "around"), ("loops", "around")),
}
"""Per action its paraphrases: the main verb and what follows it. Index i means the same in both directions."""

MOST_PARAPHRASES = max(map(len, PHRASES.values()))

_JOINS = {
    1: ((),),
    2: ((" while ",), (" and ",), (" as ",)),
    3: ((", ", " and "), (" while ", " and "), (" as ", " and ")),
}


@dataclass(frozen=True, slots=True)
class Wording:
    """Which words to say a story in: a join and, per action family, a paraphrase (taken modulo how many there are, at
    most the first ``paraphrases``)."""

    join: int
    phrases: Mapping[str, int]
    paraphrases: int

    def phrase(self, role: Role) -> tuple[str, str]:
        phrases = PHRASES[role.action][: self.paraphrases]
        return phrases[self.phrases[role.family] % len(phrases)]


def sample_wording(rng: np.random.Generator, paraphrases: int = MOST_PARAPHRASES) -> Wording:
    draws = rng.integers(0, 6, size=len(FAMILIES) + 1).tolist()
    return Wording(draws[0], dict(zip(FAMILIES, draws[1:], strict=True)), paraphrases)


@dataclass(frozen=True, slots=True)
class Description:
    """A caption, and for each of its noun and verb spans the index of the object it speaks of."""

    caption: Caption
    noun_objects: tuple[int, ...]
    verb_objects: tuple[int, ...]


def describe(story: Story, wording: Wording) -> Description:
    """Say what the captioned objects do."""
    text = ""
    nouns: list[tuple[Span, int]] = []
    verbs: list[tuple[Span, int]] = []

    def name(index: int) -> None:
        nonlocal text
        role = story.roles[index]
        # A colour that changes is told by the verb; naming it here as well would give the direction away.
        words = (role.shape,) if role.family == "colour" else (role.colour, role.shape)
        text += ("an " if words[0][0] in "aeiou" else "a ") + " ".join(words)
        nouns.append(((len(text) - len(role.shape), len(text)), index))

    joins = _JOINS[len(story.clauses)]
    for index, join in zip(story.clauses, ("", *joins[wording.join % len(joins)]), strict=True):
        role = story.roles[index]
        text += join
        name(index)
        verb, rest = wording.phrase(role)
        text += " " + verb
        verbs.append(((len(text) - len(verb), len(text)), index))
        text += (" " + rest.format(start=role.start_colour, end=role.end_colour)) if rest else ""
        if role.partner is not None:
            text += " "
            name(role.partner)
    return Description(
        Caption(
            text,
            tuple(span for span, _ in nouns),
            tuple(span for span, _ in verbs),
            tuple(SHAPES.index(story.roles[index].shape) for _, index in nouns),
        ),
        tuple(index for _, index in nouns),
        tuple(index for _, index in verbs),
    )
