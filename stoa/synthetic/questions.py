"""Questions with one-word answers about a story, and how they are balanced."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from stoa.synthetic.scene import Story

NUMBERS = ("zero", "one", "two", "three", "four")
DOES = {
    "move_right": "moves",
    "move_left": "moves",
    "move_down": "moves",
    "move_up": "moves",
    "grow": "grows",
    "shrink": "shrinks",
    "bounce": "bounces",
    "sway": "sways",
    "spin_clockwise": "spins",
    "spin_counterclockwise": "spins",
    "ripple_outward": "ripples",
    "ripple_inward": "ripples",
    "brighten": "brightens",
    "darken": "darkens",
    "change_colour": "changes",
    "flash": "flashes",
    "pulse": "pulses",
    "rock": "rocks",
    "chase": "chases",
    "orbit": "orbits",
}
"""The one-word answer to what an object does, per action."""

_WAYS = {"horizontal": "move", "vertical": "move", "spin": "spin", "ripple": "ripple"}


@dataclass(frozen=True, slots=True)
class Question:
    """A question about a clip. ``kind`` is its type; answers are balanced within each ``template``."""

    clip: str
    kind: str
    template: str
    text: str
    answer: str

    def to_json(self) -> dict[str, str]:
        return {"clip": self.clip, "type": self.kind, "question": self.text, "answer": self.answer}


def ask(clip: str, story: Story) -> list[Question]:
    """Every question the story answers. Objects are told by a shape or colour that no other object has."""
    out: list[Question] = []
    shapes = Counter(role.shape for role in story.roles)

    def add(kind: str, template: str, text: str, answer: str) -> None:
        out.append(Question(clip, kind, template, text, answer))

    for role in story.roles:
        if role.family != "colour":
            add("shape", "shape", f"what is the {role.colour} shape?", role.shape)
        if shapes[role.shape] > 1:
            continue
        if role.family != "colour":
            add("colour", "colour", f"what colour is the {role.shape}?", role.colour)
        if role.action in DOES:
            add("action", "action", f"what does the {role.shape} do?", DOES[role.action])
        if role.family in _WAYS:
            verb = _WAYS[role.family]
            add("direction", verb, f"which way does the {role.shape} {verb}?", role.action.rpartition("_")[2])
        if role.family in ("chase", "orbit") and role.partner is not None:
            other = story.roles[role.partner]
            add("role", "patient", f"what does the {role.shape} {role.family}?", other.shape)
            add("role", "agent", f"what {role.family}s the {other.shape}?", role.shape)
    add("count", "all", "how many shapes are there?", NUMBERS[len(story.roles)])
    for shape, count in shapes.items():
        plural = f"{shape}es" if shape == "cross" else f"{shape}s"
        add("count", "shape", f"how many {plural} are there?", NUMBERS[count])
    return out


def balance(rng: np.random.Generator, questions: Sequence[Question]) -> list[Question]:
    """Leave questions out, so that no answer of a template and no type stands out; the order is kept."""
    order = rng.permutation(len(questions)).tolist()
    by_template: dict[tuple[str, str], dict[str, list[int]]] = defaultdict(lambda: defaultdict(list))
    for index in order:
        question = questions[index]
        by_template[question.kind, question.template][question.answer].append(index)
    by_kind: dict[str, list[int]] = defaultdict(list)
    for (kind, _), answers in by_template.items():
        cap = min(map(len, answers.values()))
        by_kind[kind].extend(index for indices in answers.values() for index in indices[:cap])
    kept: list[int] = []
    fewest = min((len(indices) for indices in by_kind.values()), default=0)
    for indices in by_kind.values():
        kept.extend(indices[i] for i in rng.permutation(len(indices))[:fewest])
    return [questions[index] for index in sorted(kept)]
