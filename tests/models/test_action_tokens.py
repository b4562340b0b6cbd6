"""Action tokens: equation 2 in plain loops, and what the queries may not see."""

import dataclasses

import pytest
import torch
from factories import has_gradient, random_batch, tiny_model

from stoa.models.actions import Moves, gather_actions, gather_moves
from stoa.models.config import ActionConfig, ObjectConfig
from stoa.models.objects import Boxes


def naive(queries, patches, boxes):
    """The first token is the [CLS], which the queries do not see."""
    B, T = patches.shape[:2]
    out = torch.zeros(B, T, *queries.shape, dtype=patches.dtype)
    for b in range(B):
        for t in range(T):
            features = patches[b, t, 1:]
            if boxes is not None:
                features = torch.cat([features, boxes.features_BTKh[b, t][boxes.valid_BTK[b, t]]])
            for m, query in enumerate(queries):
                out[b, t, m] = torch.softmax(features @ query, dim=0) @ features
    return out


@pytest.mark.parametrize("with_boxes", [True, False])
def test_queries_gather_patches_and_valid_boxes(with_boxes):
    generator = torch.Generator().manual_seed(0)
    queries = torch.randn(3, 6, generator=generator, dtype=torch.float64)
    patches = torch.randn(2, 4, 5, 6, generator=generator, dtype=torch.float64)
    valid = torch.rand(2, 4, 3, generator=generator) < 0.5
    valid[0, 0] = False
    features = torch.randn(2, 4, 3, 6, generator=generator, dtype=torch.float64)
    boxes = Boxes(features, valid, features) if with_boxes else None
    torch.testing.assert_close(gather_actions(queries, patches, boxes), naive(queries, patches, boxes))


def test_scores_beyond_fp16_are_computed_in_fp32():
    """Unscaled products of width 768 with activations of 300 are far outside fp16."""
    generator = torch.Generator().manual_seed(0)
    patches = 300 * torch.randn(1, 2, 5, 768, generator=generator)
    queries = torch.randn(2, 768, generator=generator)
    gathered = gather_actions(queries.half(), patches.half(), None)
    assert gathered.dtype == torch.float32
    assert torch.isfinite(gathered).all()
    torch.testing.assert_close(gathered, gather_actions(queries.half().float(), patches.half().float(), None))


MOVING = {
    "objects": ObjectConfig(num_trajectories=4, max_boxes=3, motion=True, relations=True, changes=True),
    "actions": ActionConfig(num_tokens=3, motion=True),
}


def test_other_queries_gather_what_trajectories_do():
    generator = torch.Generator().manual_seed(0)
    said = torch.randn(3, 4, 6, generator=generator, dtype=torch.float64)
    there = torch.tensor([[True, True, True, True], [True, True, False, False], [False] * 4])
    said[~there] = 0
    queries = torch.randn(2, 6, generator=generator, dtype=torch.float64)
    found = gather_moves(queries, Moves(said, there))
    for b in range(3):
        own = said[b, there[b]]
        for m, query in enumerate(queries):
            expected = torch.softmax(own @ query, dim=0) @ own if len(own) else torch.zeros(6, dtype=torch.float64)
            torch.testing.assert_close(found[b, m], expected)


def test_an_action_token_says_which_way_something_goes():
    """Every clip's boxes keep their places and are met in the other order: what patches and boxes hold is the same."""
    model, batch = tiny_model(num_frames=3, **MOVING), random_batch(4, frames=3)
    flipped = {
        name: getattr(batch, name).flip(1)
        for name in ("frames_BTCHW", "boxes_BTK4", "labels_BTK", "scores_BTK", "true_labels_BTK")
    }
    back = dataclasses.replace(batch, **flipped)
    plain = tiny_model(num_frames=3, **MOVING | {"actions": ActionConfig(num_tokens=3)})
    apart = {}
    with torch.no_grad():
        for name, one in (("motion", model), ("plain", plain)):
            there, then = (one.group(one.encode_video(clips), "actions") for clips in (batch, back))
            apart[name] = float((there - then).norm() / there.norm())
    assert apart["motion"] > 2 * apart["plain"]
    model.group(model.encode_video(batch), "actions").square().sum().backward()
    for name in ("action_motion.queries", "motion.ln.weight", "relations.ln.weight", "changes.ln.weight"):
        assert has_gradient(model.get_parameter(name)), name


def test_motion_of_actions_changes_no_weight_of_the_others():
    plain = tiny_model(num_frames=3, **MOVING | {"actions": ActionConfig(num_tokens=3)}).state_dict()
    moving = tiny_model(num_frames=3, **MOVING).state_dict()
    assert moving.keys() - plain.keys() == {"action_motion.queries"}
    for name, weight in plain.items():
        torch.testing.assert_close(weight, moving[name], atol=0, rtol=0)


def test_a_clip_without_trajectories_has_finite_action_tokens():
    model, batch = tiny_model(num_frames=3, **MOVING), random_batch(2, frames=3)
    batch.labels_BTK[:] = -1
    tokens = model.group(model.encode_video(batch), "actions")
    tokens.square().sum().backward()
    assert tokens.isfinite().all()
    assert all(p.grad is None or p.grad.isfinite().all() for p in model.parameters())


@pytest.mark.parametrize(
    "objects", [ObjectConfig(num_trajectories=0, motion=True), ObjectConfig(num_trajectories=4, max_boxes=3)]
)
def test_motion_of_actions_asks_for_motion_of_trajectories(objects):
    with pytest.raises(ValueError, match=r"model.actions.motion is true and no trajectory says how it moves; set one"):
        tiny_model(objects=objects, actions=ActionConfig(num_tokens=3, motion=True))


def test_the_frames_have_an_order():
    """The released code gives the frames of the action encoder no position; here their order matters."""
    model, batch = tiny_model(num_frames=2, objects=ObjectConfig(num_trajectories=0)), random_batch(3, max_boxes=0)
    swapped = dataclasses.replace(batch, frames_BTCHW=batch.frames_BTCHW.flip(1))
    a, b = (model.group(model.encode_video(x), "actions") for x in (batch, swapped))
    assert not torch.isclose(a, b, atol=1e-6).all(dim=-1).any()


@pytest.mark.parametrize("from_top", [0, 1, 2])
def test_actions_read_the_block_that_is_asked_for(from_top):
    model = tiny_model(
        objects=ObjectConfig(num_trajectories=0), actions=ActionConfig(num_tokens=2, tap_from_top=from_top)
    )
    model.group(model.encode_video(random_batch(2, max_boxes=0)), "actions").square().sum().backward()
    for number, block in enumerate(model.clip.visual.blocks, start=1):
        assert has_gradient(block.mlp.c_fc.weight) == (number <= 2 - from_top)


def test_a_detached_tap_lets_no_gradient_through():
    model = tiny_model(objects=ObjectConfig(num_trajectories=0), actions=ActionConfig(num_tokens=2, detach_tap=True))
    model.group(model.encode_video(random_batch(2, max_boxes=0)), "actions").square().sum().backward()
    assert not has_gradient(model.clip.visual.conv1.weight)
    assert has_gradient(model.actions.queries)


def test_one_frame_is_enough():
    model = tiny_model(num_frames=1)
    video = model.encode_video(random_batch(2, frames=1))
    assert video.tokens_BGd.shape[1] == 1 + 1 + 4 + 3
    assert torch.isfinite(video.tokens_BGd).all()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_tokens": -1}, "model.actions.num_tokens is -1; expected at least 0"),
        ({"layers": 0}, "model.actions.layers is 0; expected at least 1"),
        ({"tap_from_top": -1}, "model.actions.tap_from_top is -1; expected at least 0"),
    ],
)
def test_a_wrong_value_is_named(changes, message):
    with pytest.raises(ValueError, match=message):
        ActionConfig(**changes)
