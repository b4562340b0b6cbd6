from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stoa.synthetic.actions import FAMILIES, SOLO, SOLO_ACTIONS, Poses, Rest, Style, clock, poses
from stoa.synthetic.scene import sample_scene, sample_story

_FIELDS = Poses.__slots__
_AXIS_XY = (0.2, -0.25)
_unit = st.floats(0, 1)
_rests = st.builds(Rest, st.floats(0.22, 0.78), st.floats(0.22, 0.78), st.floats(0.12, 0.16), st.floats(0, 6.3), _unit)
_styles = st.builds(Style, _unit, _unit, st.one_of(st.floats(0.07, 0.2), st.floats(-0.2, -0.07)))


@given(family=st.sampled_from(sorted(FAMILIES)), rest=_rests, style=_styles, num_frames=st.integers(4, 40))
@settings(max_examples=150)
def test_playing_a_family_backwards_shows_the_same_states_in_the_reverse_order(
    family: str, rest: Rest, style: Style, num_frames: int
) -> None:
    times = clock(num_frames)
    forwards = poses(family, False, rest, style, times, _AXIS_XY)
    backwards = poses(family, True, rest, style, times, _AXIS_XY)
    for field in _FIELDS:
        np.testing.assert_array_equal(getattr(forwards, field), getattr(backwards, field)[::-1], err_msg=field)


@given(family=st.sampled_from(sorted(set(FAMILIES) - {"colour"})), rest=_rests, style=_styles)
@settings(max_examples=100)
def test_every_action_passes_through_rest_at_time_zero(family: str, rest: Rest, style: Style) -> None:
    still = poses("none", False, rest, style, np.zeros(1), _AXIS_XY)
    moved = poses(family, False, rest, style, np.zeros(1), _AXIS_XY)
    for field in _FIELDS:
        np.testing.assert_allclose(getattr(moved, field), getattr(still, field), atol=1e-12, err_msg=field)


@pytest.mark.parametrize("family", sorted(SOLO))
def test_boxes_change_exactly_for_the_families_that_say_so(family: str) -> None:
    rest, style = Rest(0.4, 0.5, 0.14, 0.3, 0.1), Style(0.5, 0.5, 0.1)
    pose = poses(family, False, rest, style, clock(16))
    in_boxes = max(np.ptp(pose.x), np.ptp(pose.y), np.ptp(pose.radius))
    in_pixels = max(np.ptp(pose.angle), np.ptp(pose.light), np.ptp(pose.phase), pose.second.any())
    assert (in_boxes > 0.05) == SOLO[family].in_boxes
    assert (in_pixels > 0.1) != SOLO[family].in_boxes


@pytest.mark.parametrize("family", sorted(set(FAMILIES) - {"none", "orbited"}))
def test_six_uniform_frames_show_the_action(family: str) -> None:
    times = (np.arange(6) + 0.5) / 6 - 0.5
    pose = poses(family, False, Rest(0.4, 0.5, 0.14, 0.3, 0.1), Style(0.0, 0.0, 0.1), times, _AXIS_XY)
    assert max(np.ptp(getattr(pose, field).astype(float)) for field in _FIELDS) > 0.07


def test_half_of_the_actions_show_in_the_boxes() -> None:
    in_boxes = [FAMILIES[family].in_boxes for family, _ in SOLO_ACTIONS.values()] + [True, True]
    assert 0.4 <= np.mean(in_boxes) <= 0.6


def test_the_layout_at_mid_clip_does_not_tell_the_direction() -> None:
    middles: dict[str, list[tuple[float, float]]] = {}
    sizes: dict[str, list[float]] = {}
    for seed in range(2500):
        rng = np.random.default_rng(seed)
        scene = sample_scene(rng, sample_story(rng, "any"))
        for role, pose in zip(scene.story.roles, scene.poses(clock(17)), strict=True):
            middles.setdefault(role.action, []).append((float(pose.x[8]), float(pose.y[8])))
            sizes.setdefault(role.action, []).append(float(pose.radius[8]))
    for one, other in (("move_left", "move_right"), ("move_up", "move_down"), ("grow", "shrink")):
        means = [np.mean(middles[action], axis=0) for action in (one, other)]
        error = 0.17 * (1 / len(middles[one]) + 1 / len(middles[other])) ** 0.5
        assert np.abs(means[0] - means[1]).max() < 4 * error
        spread = np.std(sizes[one]) * (1 / len(sizes[one]) + 1 / len(sizes[other])) ** 0.5
        assert abs(np.mean(sizes[one]) - np.mean(sizes[other])) < 4 * spread


@pytest.mark.parametrize("backward", [False, True])
@pytest.mark.parametrize(
    ("family", "field", "says"),
    [
        ("horizontal", "x", ("move_right", "move_left")),
        ("vertical", "y", ("move_down", "move_up")),
        ("size", "radius", ("grow", "shrink")),
        ("light", "light", ("brighten", "darken")),
        ("spin", "angle", ("spin_clockwise", "spin_counterclockwise")),
        ("ripple", "phase", ("ripple_outward", "ripple_inward")),
    ],
)
def test_the_word_says_which_way_it_goes(family: str, field: str, says: tuple[str, str], backward: bool) -> None:
    """x to the right, y downwards; that angles turn clockwise and phases outwards is a test of the renderer."""
    rest, style = Rest(0.4, 0.5, 0.14, 0.3, 0.1), Style(0.5, 0.5, 0.1)
    changes = np.diff(getattr(poses(family, backward, rest, style, clock(16)), field))
    rising, falling = says
    assert FAMILIES[family].action(backward) == (falling if backward else rising)
    assert (changes < 0).all() if backward else (changes > 0).all()


@pytest.mark.parametrize("backward", [False, True])
def test_who_chases_is_behind_and_who_orbits_goes_round(backward: bool) -> None:
    rest, style, times = Rest(0.4, 0.5, 0.14, 0.3, 0.1), Style(0.5, 0.5, 0.1), clock(16)
    chase = poses("chase", False, rest, style, times, _AXIS_XY)
    assert (np.diff(chase.x) * _AXIS_XY[0] + np.diff(chase.y) * _AXIS_XY[1] > 0).all()  # towards the other one
    orbit = poses("orbit", backward, rest, style, times, _AXIS_XY)
    radius = np.hypot(orbit.x - rest.x - _AXIS_XY[0], orbit.y - rest.y - _AXIS_XY[1])
    np.testing.assert_allclose(radius, np.hypot(*_AXIS_XY))
    assert np.ptp(orbit.x) > 0.1
