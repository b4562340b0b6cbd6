"""Scenes: which objects there are, what each does, and where it rests.

A :class:`Story` says who does what; a :class:`Scene` adds the layout. The same layout under another story is how the
hard sets are made.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache
from hashlib import blake2b
from typing import Literal, TypeVar

import numpy as np

from stoa.synthetic.actions import ALL_WAYS, FAMILIES, PAIRED, Poses, Rest, Style, Ways, poses
from stoa.synthetic.windows import Window

SHAPES = ("circle", "square", "triangle", "star", "heart", "cross", "ring", "diamond", "arrow", "moon")
"""Shape nouns; the index is the class label."""

COLOURS = {
    "red": (255, 35, 35),
    "orange": (255, 145, 0),
    "yellow": (255, 240, 30),
    "green": (40, 210, 50),
    "cyan": (30, 235, 235),
    "blue": (50, 80, 255),
    "purple": (175, 50, 235),
    "white": (255, 255, 255),
}
"""Colour words and their RGB at full brightness."""

_T = TypeVar("_T")
Pool = Literal["seen", "held_out", "any"]
"""Which (shape, colour, action family) combinations captioned objects are drawn from."""

SHARED_LABEL_RATE = 0.2
_PAIRED_RATE = 0.25
_IDLE_RATE = 0.4
_REACH = 0.05, 0.95
_CHASING = {"chase": "chased", "chased": "chase"}
_LEADER = {patient: agent for agent, patient in PAIRED.items()}


@dataclass(frozen=True, slots=True, kw_only=True)
class Role:
    """One object of a story.

    Attributes:
        colour: as seen before any change of colour, when played forwards.
        family: name of a family in :data:`stoa.synthetic.actions.FAMILIES`.
        backward: whether the family is played backwards.
        captioned: whether the caption names the object.
        second_colour: the other colour of family ``colour``.
        partner: index of the other object of a paired family.
    """

    shape: str
    colour: str
    family: str
    backward: bool
    captioned: bool
    second_colour: str | None = None
    partner: int | None = None

    @property
    def action(self) -> str:
        return FAMILIES[self.family].action(self.backward)

    @property
    def start_colour(self) -> str:
        return self.second_colour if self.second_colour is not None and self.backward else self.colour

    @property
    def end_colour(self) -> str:
        return self.second_colour if self.second_colour is not None and not self.backward else self.colour

    @property
    def colours(self) -> frozenset[str]:
        return frozenset((self.start_colour, self.end_colour))

    @property
    def held_out(self) -> bool:
        """Whether the (shape, colour, action) combination never stands in a caption of the training split."""
        return held_out(self.shape, min(self.colours), self.family)


@dataclass(frozen=True, slots=True)
class Story:
    """Who does what. ``clauses`` are the indices of the captioned objects that act, in the caption's order."""

    roles: tuple[Role, ...]
    clauses: tuple[int, ...]

    @property
    def meaning(self) -> frozenset[tuple[str, ...]]:
        """What the caption says, whatever its words and order."""
        parts = []
        for index in self.clauses:
            role = self.roles[index]
            said: tuple[str, ...] = (role.shape, role.start_colour, role.action, role.end_colour)
            if role.partner is not None:
                said += (self.roles[role.partner].shape, self.roles[role.partner].colour)
            parts.append(said)
        return frozenset(parts)

    @property
    def shared_label(self) -> bool:
        """Whether two of the objects have the same shape, hence the same label."""
        return len({role.shape for role in self.roles}) < len(self.roles)

    def reversed(self) -> Story:
        """The story told by the same frames in the reverse order. An orbit reversed is an orbit still."""
        partners = {
            index: role.partner
            for index, role in enumerate(self.roles)
            if role.family in _CHASING and role.partner is not None
        }
        roles = tuple(
            replace(role, family=_CHASING[role.family])
            if index in partners
            else replace(role, backward=not role.backward)
            for index, role in enumerate(self.roles)
        )
        return Story(roles, tuple(partners.get(index, index) for index in self.clauses))


@dataclass(frozen=True, slots=True)
class Background:
    """A grey gradient: level at the centre and its change over the frame's width and height, in 0..255."""

    level: float
    change_x: float
    change_y: float


@dataclass(frozen=True, slots=True)
class Scene:
    """A story with its layout: per object a rest state and a style, and the order from front to back.

    Attributes:
        windows: of real video, what the background shows and then what each object does; none where they are plain.
    """

    story: Story
    rests: tuple[Rest, ...]
    styles: tuple[Style, ...]
    front_to_back: tuple[int, ...]
    background: Background
    windows: tuple[Window, ...] = ()

    def poses(self, times: np.ndarray) -> list[Poses]:
        """States of every object at centred ``times``."""
        out = []
        for index, role in enumerate(self.story.roles):
            axis_xy, style = (0.0, 0.0), self.styles[index]
            if role.partner is not None:
                ends = (index, role.partner) if role.family in PAIRED else (role.partner, index)
                start, end = self.rests[ends[0]], self.rests[ends[1]]
                axis_xy = end.x - start.x, end.y - start.y
                style = self.styles[min(ends)]  # the two of a pair move alike, whoever leads
            out.append(poses(role.family, role.backward, self.rests[index], style, times, axis_xy))
        return out

    @property
    def separation(self) -> float:
        """Least distance between two centres at rest, in parts of the frame."""
        return min(math.hypot(a.x - b.x, a.y - b.y) for a, b in itertools.combinations(self.rests, 2))

    @property
    def stays_inside(self) -> bool:
        """Whether every centre stays in the frame throughout."""
        low, high = _REACH
        return all(
            low <= value <= high
            for pose in self.poses(np.linspace(-0.5, 0.5, 9))
            for track in (pose.x, pose.y)
            for value in (track.min(), track.max())
        )


@cache
def held_out(shape: str, colour: str, family: str) -> bool:
    """Whether a combination is kept for val and test: a fixed 15%, the same for every seed."""
    key = f"{shape} {colour} {_LEADER.get(family, family)}".encode()
    return blake2b(key, digest_size=2).digest() < b"\x26\x66"


@cache
def candidates(family: str, backward: bool, pool: Pool) -> tuple[Role, ...]:
    """Every captioned role of the family, played that way, that the pool allows."""
    seconds = tuple(COLOURS) if family == "colour" else (None,)
    roles = (
        Role(shape=shape, colour=colour, family=family, backward=backward, captioned=True, second_colour=second)
        for shape, colour, second in itertools.product(SHAPES, COLOURS, seconds)
        if colour != second
    )
    return tuple(role for role in roles if pool == "any" or role.held_out == (pool == "held_out"))


@cache
def count_stories(pool: Pool, ways: Ways = ALL_WAYS) -> int:
    """How many captions of two or three solo actions differ in meaning."""
    roles = [role for way in ways for role in candidates(*way, pool)]
    actions, shapes = (np.array([getattr(role, name) for role in roles]) for name in ("action", "shape"))
    colours = np.array([[name in role.colours for name in COLOURS] for role in roles])
    fits = (actions[:, None] != actions) & (shapes[:, None] != shapes) & ~(colours @ colours.T)
    edges = fits.astype(np.float32)
    pairs = edges.sum(dtype=np.float64) / 2
    triples = ((edges @ edges) * edges).sum(dtype=np.float64) / 6
    return round(pairs + triples)


def sample_story(rng: np.random.Generator, pool: Pool, ways: Ways = ALL_WAYS) -> Story:
    """Draw a story: two or three captioned objects with different actions, then one or two distractors.

    Colours differ between all objects; shapes too, except that a fifth of the stories repeats a captioned shape.
    """
    while True:
        try:
            return _draw_story(rng, pool, ways)
        except _NothingFits:
            continue


class _NothingFits(Exception):
    """No option is free of the shapes and colours already taken."""


def _draw_story(rng: np.random.Generator, pool: Pool, ways: Ways) -> Story:
    roles: list[Role] = []
    num_captioned = 2 if rng.random() < 0.6 else 3
    if rng.random() < _PAIRED_RATE:
        agent = _one(rng, tuple(PAIRED))
        for family, partner in ((agent, 1), (PAIRED[agent], 0)):
            roles.append(replace(pick(rng, roles, candidates(family, False, pool)), partner=partner))
        roles[0] = replace(roles[0], backward=agent == "orbit" and rng.random() < 0.5)
    for index in rng.permutation(len(ways))[: num_captioned - len(roles)]:
        roles.append(pick(rng, roles, candidates(*ways[index], pool)))
    clauses = [index for index, role in enumerate(roles) if role.family not in _LEADER]

    num_objects = 4 if num_captioned == 3 else int(rng.integers(3, 5))
    repeated = _one(rng, roles).shape if rng.random() < SHARED_LABEL_RATE else None
    while len(roles) < num_objects:
        shape = repeated if len(roles) == num_captioned else None
        roles.append(sample_distractor(rng, roles, shape, ways))
    return Story(tuple(roles), tuple(int(index) for index in rng.permutation(clauses)))


def sample_distractor(
    rng: np.random.Generator, others: Sequence[Role], shape: str | None = None, ways: Ways = ALL_WAYS
) -> Role:
    """Draw an object that the caption does not name, of the given shape or of one that the others do not have."""
    way = ("none", False) if rng.random() < _IDLE_RATE else _one(rng, ways)
    role = replace(pick(rng, others, candidates(*way, "any")), captioned=False)
    return role if shape is None else replace(role, shape=shape)


def pick(rng: np.random.Generator, others: Sequence[Role], options: Sequence[Role]) -> Role:
    """Draw one of the options that shares neither shape nor colour with the others."""
    shapes = {role.shape for role in others}
    colours = frozenset[str]().union(*(role.colours for role in others))
    for index in rng.permutation(len(options)):
        if options[index].shape not in shapes and not options[index].colours & colours:
            return options[index]
    raise _NothingFits


def sample_scene(rng: np.random.Generator, story: Story) -> Scene:
    """Lay the story out, at random and independent of the directions of its actions."""
    num = len(story.roles)
    styles = tuple(
        Style(vigour=rng.random(), tempo=rng.random(), switch=float(rng.uniform(0.07, 0.2) * rng.choice((-1, 1))))
        for _ in range(num)
    )
    front_to_back = tuple(int(index) for index in rng.permutation(num))
    background = Background(*(float(value) for value in rng.uniform((25, -30, -30), (75, 30, 30))))
    separation = 0.24
    while True:
        scene = Scene(story, _sample_rests(rng, story), styles, front_to_back, background)
        if scene.separation >= separation and scene.stays_inside:
            return scene
        separation *= 0.98


def _sample_rests(rng: np.random.Generator, story: Story) -> tuple[Rest, ...]:
    centres = rng.uniform(0.22, 0.78, (len(story.roles), 2))
    for index, role in enumerate(story.roles):
        if role.family in PAIRED:
            bearing, gap = rng.uniform(0, 2 * math.pi), rng.uniform(0.28, 0.36)
            centres[role.partner] = centres[index] + gap * np.array((math.cos(bearing), math.sin(bearing)))
    return tuple(
        Rest(float(x), float(y), float(rng.uniform(0.14, 0.18)), float(rng.uniform(0, 2 * math.pi)), rng.random())
        for x, y in centres
    )


def _one(rng: np.random.Generator, options: Sequence[_T]) -> _T:
    return options[int(rng.integers(len(options)))]
