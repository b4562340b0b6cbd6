"""What trajectories look like and how that changes, against means and lines taken channel by channel."""

import dataclasses

import numpy as np
import pytest
import torch
from factories import has_gradient, random_batch, tiny_model
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from stoa.models.config import ObjectConfig
from stoa.models.looks import ChangeEncoder, LookEncoder
from stoa.models.motion import levers_of

CHANGES = ObjectConfig(num_trajectories=4, max_boxes=3, changes=True)
LOOKS = ObjectConfig(num_trajectories=4, max_boxes=3, look=True)


@settings(max_examples=40)
@given(st.integers(1, 6), st.integers(1, 3), st.integers(0, 2**31 - 1))
@torch.no_grad()
def test_they_embed_the_mean_and_the_slope_of_every_channel(frames, slots, seed):
    generator = torch.Generator().manual_seed(seed)
    pooled = torch.randn(2, frames, slots, 12, generator=generator)
    scores = torch.rand(2, frames, slots, generator=generator) + 0.05
    labels = torch.randint(-1, 3, (2, frames, slots), generator=generator)
    trajectories = torch.tensor([[0, 1, 2, -1], [2, 0, -1, -1]])
    encoder = ChangeEncoder(12, 8)
    look = LookEncoder(12, 8)
    found, looked = (e(pooled, levers_of(scores, labels, trajectories)) for e in (encoder, look))
    looks = F.layer_norm(pooled, (12,)).double().numpy()
    for b, n in np.ndindex(2, 4):
        at, slot = ((labels[b] == trajectories[b, n]) & (trajectories[b, n] >= 0)).numpy().nonzero()
        if not len(at):
            assert looked[b, n].count_nonzero() == 0
        else:
            shares = scores[b, at, slot].double().numpy()
            mean = shares @ looks[b, at, slot] / shares.sum()
            expected = look.ln(look.mlp(torch.from_numpy(mean).float()))
            torch.testing.assert_close(looked[b, n], expected, atol=1e-4, rtol=1e-4)
        if len(set(at.tolist())) < 2:
            assert found[b, n].count_nonzero() == 0
            continue
        times, weights = (at + 0.5) / frames, scores[b, at, slot].double().numpy()
        slopes = np.polyfit(times, looks[b, at, slot], 1, w=np.sqrt(weights))[0]
        expected = encoder.ln(encoder.mlp(torch.from_numpy(slopes).float()))
        torch.testing.assert_close(found[b, n], expected, atol=2e-3, rtol=2e-3)


@torch.no_grad()
def test_a_fresh_token_tells_lighter_from_darker():
    """Of clips whose boxes stand still, played both ways: boxes, words and means are the same, the tokens are not."""
    model = tiny_model(num_frames=3, objects=CHANGES)
    batch = random_batch(6, frames=3)
    still = {
        name: getattr(batch, name)[:, :1].expand_as(getattr(batch, name)).clone()
        for name in ("boxes_BTK4", "labels_BTK", "scores_BTK")
    }
    there = dataclasses.replace(batch, **still)
    back = dataclasses.replace(there, frames_BTCHW=there.frames_BTCHW.flip(1))
    objects = model.fusion.slot("objects")
    one, other = (model.encode_video(clips).tokens_BGd[:, objects] for clips in (there, back))
    model.config = dataclasses.replace(model.config, objects=dataclasses.replace(CHANGES, changes=False))
    plain, turned = (model.encode_video(clips).tokens_BGd[:, objects] for clips in (there, back))
    with_it, without = ((a - b).norm() / a.norm() for a, b in ((one, other), (plain, turned)))
    assert with_it > 2 * without


@torch.no_grad()
def test_a_fresh_token_tells_what_it_shows():
    """Of clips whose boxes, labels and words are the same, and whose frames are not."""
    model = tiny_model(num_frames=3, objects=LOOKS)
    batch = random_batch(6, frames=3)
    other = dataclasses.replace(batch, frames_BTCHW=batch.frames_BTCHW.roll(1, dims=0))
    objects = model.fusion.slot("objects")
    with_it = [model.encode_video(clips).tokens_BGd[:, objects] for clips in (batch, other)]
    model.config = dataclasses.replace(model.config, objects=dataclasses.replace(LOOKS, look=False))
    without = [model.encode_video(clips).tokens_BGd[:, objects] for clips in (batch, other)]
    apart, before = ((a - b).norm() / a.norm() for a, b in (with_it, without))
    assert apart > 2 * before


@pytest.mark.parametrize(("objects", "part"), [(LOOKS, "look"), (CHANGES, "changes")], ids=["look", "changes"])
def test_they_learn_and_an_empty_box_has_none(objects, part):
    model, batch = tiny_model(num_frames=3, objects=objects), random_batch(4, frames=3)
    model.encode_video(batch).tokens_BGd.square().sum().backward()
    assert all(has_gradient(p) for p in getattr(model, part).parameters())
    batch.labels_BTK[:, 0, 0] = -1
    changed = dataclasses.replace(batch, boxes_BTK4=batch.boxes_BTK4.clone())
    changed.boxes_BTK4[:, 0, 0] = torch.tensor([0.1, 0.1, torch.nan, 0.9])
    with torch.no_grad():
        tokens, same = (model.encode_video(clips).tokens_BGd for clips in (batch, changed))
    torch.testing.assert_close(tokens, same, atol=0, rtol=0)


@pytest.mark.parametrize("kind", [LookEncoder, ChangeEncoder])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@torch.no_grad()
def test_sums_are_not_rounded_in_half_precision(dtype, kind):
    generator = torch.Generator().manual_seed(0)
    pooled = torch.randn(2, 4, 1, 16, generator=generator)
    labels = torch.zeros(2, 4, 1, dtype=torch.int64)
    levers = levers_of(torch.ones(2, 4, 1), labels, labels[:, 0])
    encoder = kind(16, 8)
    exact = encoder(pooled, levers)
    rounded = encoder.to(dtype)(pooled.to(dtype), levers)
    assert rounded.dtype == dtype
    torch.testing.assert_close(rounded.float(), exact, atol=0.05, rtol=0.05)


@pytest.mark.parametrize("part", ["look", "changes"])
def test_they_change_no_weight_of_the_others(part):
    others = dataclasses.replace(CHANGES, motion=True, relations=True, changes=part != "changes")
    plain, more = (tiny_model(objects=of).state_dict() for of in (others, dataclasses.replace(others, **{part: True})))
    assert {name for name in more if name not in plain} == {name for name in more if name.startswith(f"{part}.")}
    for name, weight in plain.items():
        torch.testing.assert_close(weight, more[name], atol=0, rtol=0)
