"""What objects do: each action is a pure function of centred time.

Time runs from -0.5 (first frame) to 0.5 (last frame), and every action passes through the object's rest state at
time 0. So the middle frame of a clip shows the same picture whatever the actions are, and playing a clip backwards
is the same as negating time.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

REST_LIGHT = 0.75
"""Brightness of an object that does nothing."""


@dataclass(frozen=True, slots=True)
class Family:
    """Actions that differ by the direction of time only.

    Attributes:
        actions: the action seen forwards and, for a family with a direction, the one seen backwards.
        in_boxes: whether the bounding boxes show it; otherwise only the pixels do.
    """

    name: str
    actions: tuple[str, ...]
    in_boxes: bool

    @property
    def has_direction(self) -> bool:
        return len(self.actions) == 2

    def action(self, backward: bool) -> str:
        return self.actions[-1] if backward else self.actions[0]


SOLO = {
    family.name: family
    for family in (
        Family("horizontal", ("move_right", "move_left"), True),
        Family("vertical", ("move_down", "move_up"), True),
        Family("size", ("grow", "shrink"), True),
        Family("bounce", ("bounce",), True),
        Family("sway", ("sway",), True),
        Family("spin", ("spin_clockwise", "spin_counterclockwise"), False),
        Family("ripple", ("ripple_outward", "ripple_inward"), False),
        Family("light", ("brighten", "darken"), False),
        Family("colour", ("change_colour", "change_colour"), False),
        Family("flash", ("flash",), False),
        Family("pulse", ("pulse",), False),
        Family("rock", ("rock",), False),
    )
}
"""Families of actions that one object does on its own, by name."""

PAIRED = {"chase": "chased", "orbit": "orbited"}
"""Families of actions done to another object: the family of the one who acts to that of the other one."""

FAMILIES = {
    **SOLO,
    **{name: Family(name, (name,), True) for pair in PAIRED.items() for name in pair},
    "none": Family("none", ("none",), True),
}
"""All families by name; ``none`` is the object that does nothing."""

SOLO_ACTIONS = {
    action: (family.name, backward)
    for family in SOLO.values()
    for action, backward in zip(family.actions, (False, True), strict=False)
    if not (family.name == "colour" and backward)
}
"""Solo actions by name, with their family and whether it is played backwards."""

Ways = tuple[tuple[str, bool], ...]
"""Solo actions that may occur, each a family and whether it is played backwards."""

ALL_WAYS: Ways = tuple(SOLO_ACTIONS.values())


@dataclass(frozen=True, slots=True)
class Rest:
    """An object's state at time 0: centre and radius in parts of the frame, angle in radians, phase in cycles."""

    x: float
    y: float
    radius: float
    angle: float
    phase: float


@dataclass(frozen=True, slots=True)
class Style:
    """How an object acts, whatever it does: ``vigour`` and ``tempo`` in [0, 1], ``switch`` a time in (-0.5, 0.5)."""

    vigour: float
    tempo: float
    switch: float


@dataclass(frozen=True, slots=True)
class Poses:
    """An object's state over time; every array is (F,).

    Attributes:
        x, y, radius: in parts of the frame; y points down.
        angle: radians, growing clockwise on the screen.
        light: brightness in [0, 1].
        phase: of the ring texture, in cycles; the rings move outwards as it grows.
        second: bool, whether the second colour shows.
    """

    x: np.ndarray
    y: np.ndarray
    radius: np.ndarray
    angle: np.ndarray
    light: np.ndarray
    phase: np.ndarray
    second: np.ndarray


def clock(num_frames: int) -> np.ndarray:
    """Centred times (F,) of the frames: -0.5 to 0.5, exactly antisymmetric."""
    return (np.arange(num_frames) - (num_frames - 1) / 2) / (num_frames - 1)


def poses(
    family: str, backward: bool, rest: Rest, style: Style, times: np.ndarray, axis_xy: tuple[float, float] = (0.0, 0.0)
) -> Poses:
    """States of one object at centred ``times`` (F,).

    Args:
        backward: play the family backwards (``shrink`` is ``grow`` played backwards).
        axis_xy: for a paired family the vector from the one who acts to the other one, at rest.
    """
    still = {
        "x": rest.x,
        "y": rest.y,
        "radius": rest.radius,
        "angle": rest.angle,
        "light": REST_LIGHT,
        "phase": rest.phase,
        "second": False,
    }
    changed = _changes(family, rest, style, -times if backward else times, axis_xy)
    return Poses(**{name: np.broadcast_to(changed.get(name, value), times.shape) for name, value in still.items()})


def _changes(
    family: str, rest: Rest, style: Style, t: np.ndarray, axis_xy: tuple[float, float]
) -> dict[str, np.ndarray]:
    """The fields of the state that the family changes, each (F,). Amplitudes show within six frames a clip."""
    travel = 2 * (0.17 + 0.06 * style.vigour)
    wave = np.sin(2 * math.pi * (1.3 + 0.5 * style.tempo) * t)
    match family:
        case "horizontal":
            return {"x": rest.x + _inside(rest.x, travel) * t}
        case "vertical":
            return {"y": rest.y + _inside(rest.y, travel) * t}
        case "size":
            return {"radius": rest.radius * (1 + 2 * (0.35 + 0.1 * style.vigour) * t)}
        case "bounce":
            height = _inside(rest.y, travel) / 2
            return {"y": rest.y - height * np.abs(np.sin(math.pi * (1.8 + 0.4 * style.tempo) * t))}
        case "sway":
            return {"x": rest.x + (0.08 + 0.04 * style.vigour) * wave}
        case "spin":
            # Under half a turn a clip: five-pointed stars would seem to turn back with larger steps.
            return {"angle": rest.angle + 2 * (1.4 + 0.3 * style.vigour) * t}
        case "ripple":
            return {"phase": rest.phase + (1.6 + 0.5 * style.tempo) * t}
        case "light":
            return {"light": REST_LIGHT * (1 + 2 * (0.28 + 0.05 * style.vigour) * t)}
        case "colour":
            return {"second": t > style.switch}
        case "flash":
            on = np.cos(2 * math.pi * (1.9 + 0.3 * style.tempo) * t) >= 0
            return {"light": np.where(on, REST_LIGHT, 0.3)}
        case "pulse":
            return {"light": REST_LIGHT * (1 + 0.33 * wave)}
        case "rock":
            return {"angle": rest.angle + (0.5 + 0.2 * style.vigour) * wave}
        case "chase" | "chased":
            length = math.hypot(*axis_xy)
            distance = 2 * (0.14 + 0.05 * style.vigour) / length
            return {"x": rest.x + distance * axis_xy[0] * t, "y": rest.y + distance * axis_xy[1] * t}
        case "orbit":
            turn = 2 * (1.7 + 0.5 * style.vigour) * t
            cos, sin = np.cos(turn), np.sin(turn)
            back_x, back_y = -axis_xy[0], -axis_xy[1]
            return {
                "x": rest.x + axis_xy[0] + cos * back_x - sin * back_y,
                "y": rest.y + axis_xy[1] + sin * back_x + cos * back_y,
            }
    return {}


def _inside(position: float, travel: float) -> float:
    """The travel, cut so that the centre stays in the frame at both ends: the cut must not tell the direction."""
    return 2 * min(travel / 2, position - 0.06, 0.94 - position)
