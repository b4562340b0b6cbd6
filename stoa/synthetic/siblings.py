"""Siblings: clips of the same objects in the same layout that differ in who does what, or in the direction of time.

What tells siblings apart is what the hard sets ask for. Training clips that have none can be matched to their captions
by their objects alone.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import numpy as np

from stoa.synthetic.actions import ALL_WAYS, FAMILIES, PAIRED, Ways
from stoa.synthetic.scene import Pool, Role, Story, held_out

_TRIES = 20


def sample_sibling(rng: np.random.Generator, story: Story, pool: Pool, ways: Ways = ALL_WAYS) -> Story | None:
    """Another story of the same objects: two of them exchange what they do, or one is played the other way round, or
    does something else of the ``ways``. Objects that a caption names, and those it does not, stay what they are.

    Returns:
        a story with another meaning whose captioned objects the pool allows, or None where none was found.
    """
    changes = (_exchange, _turn_round, partial(_do_something_else, ways))
    for _ in range(_TRIES):
        roles = list(story.roles)
        changes[int(rng.integers(len(changes)))](rng, roles)
        other = _clauses_of(replace(story, roles=tuple(roles)))
        if other.meaning != story.meaning and _is_allowed(other, pool):
            return other
    return None


def _is_allowed(story: Story, pool: Pool) -> bool:
    """Captioned objects differ in what they do, and all are of the pool."""
    captioned = [role for role in story.roles if role.captioned]
    of_pool = (held_out(r.shape, min(r.colours), r.family) == (pool == "held_out") for r in captioned)
    return len({role.action for role in captioned}) == len(captioned) and (pool == "any" or all(of_pool))


def _exchange(rng: np.random.Generator, roles: list[Role]) -> None:
    """Two captioned objects change places in the story, but for a change of colour, which the middle frame shows."""
    able = [i for i, role in enumerate(roles) if role.captioned and role.family != "colour"]
    if len(able) < 2:
        return
    a, b = (able[int(i)] for i in rng.permutation(len(able))[:2])
    doing = {i: (roles[i].family, roles[i].backward, roles[i].partner) for i in (a, b)}
    swapped = {a: b, b: a}
    for here, there in swapped.items():
        family, backward, partner = doing[there]
        roles[here] = replace(roles[here], family=family, backward=backward, partner=partner)
    for i, role in enumerate(roles):
        if role.partner is not None:
            roles[i] = replace(role, partner=swapped.get(role.partner, role.partner))


def _turn_round(rng: np.random.Generator, roles: list[Role]) -> None:
    """One captioned object with a direction goes the other way."""
    able = [
        i
        for i, role in enumerate(roles)
        if role.captioned and role.partner is None and role.action != replace(role, backward=not role.backward).action
    ]
    if able:
        i = able[int(rng.integers(len(able)))]
        roles[i] = replace(roles[i], backward=not roles[i].backward)


def _do_something_else(ways: Ways, rng: np.random.Generator, roles: list[Role]) -> None:
    """One captioned object without a partner gets an action that no other captioned one has."""
    able = [i for i, r in enumerate(roles) if r.captioned and r.partner is None and r.family != "colour"]
    if not able:
        return
    i = able[int(rng.integers(len(able)))]
    taken = {role.action for role in roles if role.captioned}
    free = [way for way in ways if FAMILIES[way[0]].action(way[1]) not in taken and way[0] != "colour"]
    family, backward = free[int(rng.integers(len(free)))]
    roles[i] = replace(roles[i], family=family, backward=backward)


def _clauses_of(story: Story) -> Story:
    """The same with a clause for every captioned object that acts, in the order of the objects before."""
    acts = [i for i, role in enumerate(story.roles) if role.captioned and role.family not in PAIRED.values()]
    known = [i for i in story.clauses if i in acts]
    return replace(story, clauses=(*known, *(i for i in acts if i not in known)))
