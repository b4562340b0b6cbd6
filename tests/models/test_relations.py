"""How trajectories go with respect to each other: what is told of a pair, and that a token tells it."""

import dataclasses
import math

import pytest
import torch
from factories import has_gradient, random_batch, tiny_model
from hypothesis import given, settings
from hypothesis import strategies as st

from stoa.models.config import ObjectConfig
from stoa.models.motion import Lines, fit_lines, levers_of
from stoa.models.relations import STRAY_GAIN, RelationEncoder, pair_features

FRAMES = 5


def lines_of(*ways) -> tuple[Lines, torch.Tensor]:
    """Of small boxes in one clip; ``ways`` give the place of each at a time from 0 to 1."""
    times = (torch.arange(FRAMES) + 0.5) / FRAMES
    corners_TN2 = torch.stack([torch.stack([torch.tensor(way(t.item())) for way in ways]) for t in times])
    boxes_BTN4 = torch.cat([corners_TN2 - 0.05, corners_TN2 + 0.05], dim=-1)[None]
    labels_BTN = torch.arange(len(ways)).expand(1, FRAMES, -1)
    levers = levers_of(torch.ones(1, FRAMES, len(ways)), labels_BTN, labels_BTN[:, 0])
    return fit_lines(boxes_BTN4, labels_BTN, levers), labels_BTN[:, 0]


def still(x: float, y: float):
    return lambda t: (x, y)


def test_what_is_told_of_who_chases_whom():
    """Both go right at 0.4 a clip, the first a fifth of the frame behind."""
    lines, _ = lines_of(lambda t: (0.2 + 0.4 * t, 0.5), lambda t: (0.4 + 0.4 * t, 0.5))
    features = pair_features(lines)[0]
    torch.testing.assert_close(features[0, 1], torch.tensor([0.4, 0.4, 0.2, 0, 0]), atol=1e-3, rtol=0)
    torch.testing.assert_close(features[1, 0], torch.tensor([-0.4, -0.4, 0.2, 0, 0]), atol=1e-3, rtol=0)


def test_what_is_told_of_who_orbits_whom():
    """The one that goes around strays from every line; the root of the mean square of its radius is known."""
    radius, turns = 0.2, 1.0

    def around(t: float) -> tuple[float, float]:
        return 0.5 + radius * math.cos(2 * math.pi * turns * t), 0.5 + radius * math.sin(2 * math.pi * turns * t)

    lines, _ = lines_of(around, still(0.5, 0.5))
    own, other = pair_features(lines)[0, 0, 1, 3:]
    assert other.item() == pytest.approx(0, abs=1e-6)
    assert 0.5 * STRAY_GAIN * radius < own.item() <= STRAY_GAIN * radius
    assert pair_features(lines)[0, 1, 0, 4] == own


@settings(max_examples=60)
@given(st.floats(0, 2 * math.pi), st.floats(-0.2, 0.2), st.integers(0, 2**31 - 1))
def test_it_is_the_same_wherever_a_pair_is_and_however_it_is_turned(angle, shift, seed):
    places = torch.rand(2, 4, generator=torch.Generator().manual_seed(seed)).tolist()
    turned = math.cos(angle), math.sin(angle)

    def way(x, y, dx, dy, turn=(1.0, 0.0), by=0.0):
        def at(t: float) -> tuple[float, float]:
            px, py = x + dx * t, y + dy * t
            return turn[0] * px - turn[1] * py + by, turn[1] * px + turn[0] * py - by

        return at

    found = pair_features(lines_of(*(way(*place) for place in places))[0])
    same = pair_features(lines_of(*(way(*place, turned, shift) for place in places))[0])
    torch.testing.assert_close(found, same, atol=2e-3, rtol=1e-3)


@torch.no_grad()
def test_alone_nothing_is_added_and_others_in_any_order_are_the_same():
    encoder = RelationEncoder(8)
    ways = [still(0.1, 0.2), lambda t: (0.2 + 0.3 * t, 0.9 - t / 2), lambda t: (0.8, t)]
    lines, labels_BN = lines_of(*ways)
    whole = encoder(lines, labels_BN)
    order = torch.tensor([2, 0, 1])
    lines_again = Lines(*(values[:, order] for values in lines))
    torch.testing.assert_close(encoder(lines_again, labels_BN), whole[:, order])
    lone = encoder(lines, torch.tensor([[0, -1, -1]]))
    assert lone.count_nonzero() == 0
    two = encoder(lines, torch.tensor([[0, 1, -1]]))
    assert two[0, :2].count_nonzero(dim=1).all() and two[0, 2].count_nonzero() == 0
    alone = encoder(Lines(*(values[:, :2] for values in lines)), labels_BN[:, :2])
    torch.testing.assert_close(two[:, :2], alone)


@pytest.mark.parametrize("motion", [False, True])
def test_relations_learn_and_a_token_has_them(motion):
    objects = ObjectConfig(num_trajectories=4, max_boxes=3, motion=motion, relations=True)
    model, batch = tiny_model(num_frames=3, objects=objects), random_batch(4, frames=3)
    model.encode_video(batch).tokens_BGd.square().sum().backward()
    assert all(has_gradient(p) for p in model.relations.parameters())


@torch.no_grad()
def test_two_trajectories_in_one_place_are_finite():
    lines, labels_BN = lines_of(still(0.5, 0.5), still(0.5, 0.5))
    assert pair_features(lines).isfinite().all()
    assert RelationEncoder(8)(lines, labels_BN).isfinite().all()
    batch = random_batch(2, frames=3)
    same = dataclasses.replace(batch, boxes_BTK4=torch.tensor([0.1, 0.1, 0.2, 0.2]).expand_as(batch.boxes_BTK4).clone())
    model = tiny_model(num_frames=3, objects=ObjectConfig(num_trajectories=4, max_boxes=3, relations=True))
    assert model.encode_video(same).tokens_BGd.isfinite().all()


def test_relations_change_no_weight_of_the_others():
    plain, related = (
        tiny_model(objects=ObjectConfig(num_trajectories=4, max_boxes=3, motion=True, relations=on)).state_dict()
        for on in (False, True)
    )
    assert {name for name in related if name not in plain} == {name for name in related if "relations." in name}
    for name, weight in plain.items():
        torch.testing.assert_close(weight, related[name], atol=0, rtol=0)
