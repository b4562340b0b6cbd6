"""Hard sets: galleries of four clips with the same objects in the same layout, which differ in who does what or when.

All four clips of a gallery show the same picture in the middle (up to a change of colour that falls before or after).

- ``action_swap``: three objects exchange three actions, so that the captions hold the same words.
- ``role_swap``: three objects, of which one chases (or orbits) another.
- ``time_reversal``: two objects, each with an action or its reverse.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass, replace

import numpy as np

from stoa.synthetic.actions import ALL_WAYS, PAIRED, SOLO, Ways
from stoa.synthetic.captions import MOST_PARAPHRASES, Wording, sample_wording
from stoa.synthetic.scene import Role, Scene, Story, candidates, pick, sample_distractor, sample_scene

HARD_KINDS = ("action_swap", "role_swap", "time_reversal")
ROWS_PER_GALLERY = 4
Draw = tuple[list[Story], tuple[int | None, ...]]


@dataclass(frozen=True, slots=True)
class Gallery:
    """Four scenes to be told apart, the words of their captions, and the row that shows each row's frames reversed."""

    scenes: tuple[Scene, ...]
    wording: Wording
    reversed_row: tuple[int | None, ...]


def sample_gallery(
    rng: np.random.Generator, kind: str, paraphrases: int = MOST_PARAPHRASES, ways: Ways = ALL_WAYS
) -> Gallery:
    """Draw a gallery of the kind, of the solo actions in ``ways``, each told in one of at most so many ways."""
    draw = {"action_swap": _action_swap, "role_swap": _role_swap, "time_reversal": _time_reversal}[kind]
    stories, reversed_row = draw(rng, ways)
    while True:
        scene = sample_scene(rng, stories[0])
        if kind == "role_swap":
            scene = _in_a_triangle(rng, scene)
        scenes = tuple(replace(scene, story=story) for story in stories)
        if all(scene.stays_inside for scene in scenes):
            return Gallery(scenes, sample_wording(rng, paraphrases), reversed_row)


def _action_swap(rng: np.random.Generator, ways: Ways) -> Draw:
    # A change of colour is left out: in the middle of the clip it would show who has it.
    names = [name for name in _families(ways) if name != "colour"]
    families = [SOLO[names[index]] for index in rng.permutation(len(names))[:3]]
    doing = [(family.name, rng.random() < 0.5) for family in families]
    objects = _idle_objects(rng, 4)
    orders = list(itertools.permutations(doing))
    clauses = tuple(rng.permutation(3).tolist())
    stories = []
    for index in rng.permutation(len(orders))[:ROWS_PER_GALLERY]:
        actors = [
            replace(role, family=family, backward=backward, captioned=True)
            for role, (family, backward) in zip(objects[:3], orders[index], strict=True)
        ]
        stories.append(Story((*actors, objects[3]), clauses))
    return stories, (None,) * ROWS_PER_GALLERY


def _role_swap(rng: np.random.Generator, _: Ways) -> Draw:
    family = tuple(PAIRED)[int(rng.integers(len(PAIRED)))]
    backward = family == "orbit" and rng.random() < 0.5
    objects = _idle_objects(rng, 3)
    common = int(rng.integers(3))  # the two pairs of the gallery share this object
    stories = []
    for other in (index for index in range(3) if index != common):
        for agent, patient in ((common, other), (other, common)):
            roles = list(objects)
            roles[agent] = replace(objects[agent], family=family, backward=backward, captioned=True, partner=patient)
            roles[patient] = replace(objects[patient], family=PAIRED[family], captioned=True, partner=agent)
            stories.append(Story(tuple(roles), (agent,)))
    return stories, (1, 0, 3, 2) if family == "chase" else (None,) * ROWS_PER_GALLERY


def _time_reversal(rng: np.random.Generator, ways: Ways) -> Draw:
    directed = [name for name in _families(ways) if SOLO[name].has_direction]
    roles: list[Role] = []
    for index in rng.permutation(len(directed))[:2]:
        roles.append(pick(rng, roles, candidates(directed[index], False, "any")))
    distractor = sample_distractor(rng, roles, ways=ways)
    clauses = tuple(rng.permutation(2).tolist())
    stories = []
    for second in (False, True):
        for first in (False, True):
            # The distractor turns round with one object, so that rows 0 and 3, and 1 and 2, show the same frames.
            turned = replace(distractor, backward=distractor.backward != second)
            actors = (replace(roles[0], backward=first), replace(roles[1], backward=second))
            stories.append(Story((*actors, turned), clauses))
    return stories, (3, 2, 1, 0)


def _families(ways: Ways) -> list[str]:
    return list(dict.fromkeys(family for family, _ in ways))


def _idle_objects(rng: np.random.Generator, count: int) -> list[Role]:
    roles: list[Role] = []
    while len(roles) < count:
        roles.append(replace(pick(rng, roles, candidates("none", False, "any")), captioned=False))
    return roles


def _in_a_triangle(rng: np.random.Generator, scene: Scene) -> Scene:
    """Three objects as far from each other as a pair is, so that the layout does not tell the pair."""
    bearing, gap = rng.uniform(0, 2 * math.pi), rng.uniform(0.28, 0.36)
    x, y = rng.uniform(0.4, 0.6, 2)
    rests = []
    for index, rest in enumerate(scene.rests):
        angle = bearing + 2 * math.pi * index / 3
        reach = gap / math.sqrt(3)
        rests.append(replace(rest, x=float(x + reach * math.cos(angle)), y=float(y + reach * math.sin(angle))))
    return replace(scene, rests=tuple(rests))
