"""How trajectories move: what is embedded, and that a token tells it."""

import dataclasses
import itertools

import numpy as np
import pytest
import torch
from factories import has_gradient, random_batch, tiny_model
from hypothesis import given, settings
from hypothesis import strategies as st

from stoa.data.sampling import sample_times
from stoa.models.config import ObjectConfig
from stoa.models.motion import MotionEncoder, fit_lines, levers_of


def random_boxes(generator: torch.Generator, clips: int, frames: int, slots: int):
    boxes = torch.rand(clips, frames, slots, 4, generator=generator)
    return boxes, torch.randint(-1, 3, (clips, frames, slots), generator=generator)


def lines_through(boxes_BTK4, scores_BTK, labels_BTK, labels_BN):
    return fit_lines(boxes_BTK4, labels_BTK, levers_of(scores_BTK, labels_BTK, labels_BN))


@settings(max_examples=60)
@given(st.integers(1, 6), st.integers(1, 4), st.integers(0, 2**31 - 1))
def test_a_slope_is_that_of_the_weighted_least_squares_line(frames, slots, seed):
    """NumPy's polyfit, of every trajectory by itself, is the oracle."""
    generator = torch.Generator().manual_seed(seed)
    boxes, labels = random_boxes(generator, 2, frames, slots)
    scores = torch.rand(2, frames, slots, generator=generator) + 0.05
    trajectories = torch.randint(-1, 3, (2, 5), generator=generator)
    found = lines_through(boxes, scores, labels, trajectories)
    for b, n in itertools.product(range(2), range(5)):
        at, slot = ((labels[b] == trajectories[b, n]) & (trajectories[b, n] >= 0)).nonzero(as_tuple=True)
        assert found.moves_BN[b, n] == (len(set(at.tolist())) > 1)
        slope, centre, stray = np.zeros((3, 4))
        if len(at):
            times, weights = (at.numpy() + 0.5) / frames, scores[b, at, slot].double().numpy()
            own = boxes[b, at, slot].double().numpy()
            centre = np.average(own, axis=0, weights=weights)
            lines = [np.poly1d(place) for place in centre]
            if found.moves_BN[b, n]:
                fits = np.polyfit(times, own, 1, w=np.sqrt(weights))
                slope, lines = fits[0], [np.poly1d(fit) for fit in fits.T]
            beside = own - np.stack([line(times) for line in lines], axis=1)
            stray = np.sqrt(np.average(beside**2, axis=0, weights=weights))
        np.testing.assert_allclose(found.slopes_BN4[b, n].numpy(), slope, atol=2e-4, rtol=1e-4)
        np.testing.assert_allclose(found.centres_BN4[b, n].numpy(), centre, atol=1e-5, rtol=1e-4)
        np.testing.assert_allclose(found.strays_BN4[b, n].numpy(), stray, atol=2e-4, rtol=1e-4)


def test_a_box_that_is_hardly_sure_hardly_counts():
    """A box goes right by a tenth a frame; the last one, which the detector doubts, is far left."""
    left = torch.tensor([0.1, 0.2, 0.3, 0.4, 0.0])
    boxes = torch.stack([left, left, left + 0.2, left + 0.2], dim=-1)[None, :, None]
    labels, trajectories = torch.zeros(1, 5, 1, dtype=torch.int64), torch.zeros(1, 1, dtype=torch.int64)
    slope = {}
    for doubted in (1.0, 0.01, 0.0):
        found = lines_through(boxes, torch.tensor([1.0, 1, 1, 1, doubted])[None, :, None], labels, trajectories)
        slope[doubted] = found.slopes_BN4[0, 0, 0].item()
    assert slope[1.0] < 0.1  # 0.5 a clip is the truth
    assert 0.42 < slope[0.01] < slope[0.0] <= 0.5
    unsure = lines_through(boxes, torch.zeros(1, 5, 1), labels, trajectories)
    assert unsure.moves_BN.all()
    assert unsure.slopes_BN4[0, 0, 0].item() == pytest.approx(slope[1.0], abs=1e-5)


def test_slopes_are_not_rounded_under_autocast():
    boxes = torch.tensor([[[[0.7, 0.7, 0.9, 0.9]], [[0.701, 0.7, 0.901, 0.9]]]])
    with torch.autocast("cpu", torch.bfloat16):
        found = lines_through(boxes, torch.ones(1, 2, 1), torch.zeros(1, 2, 1).long(), torch.zeros(1, 1).long())
    torch.testing.assert_close(found.slopes_BN4[0, 0], torch.tensor([0.002, 0, 0.002, 0]), atol=1e-6, rtol=0)


@torch.no_grad()
def test_a_trajectory_in_one_frame_adds_nothing():
    generator = torch.Generator().manual_seed(0)
    boxes, _ = random_boxes(generator, 1, 3, 2)
    labels = torch.tensor([[[0, 0], [1, -1], [1, -1]]])
    motion = MotionEncoder(8)(lines_through(boxes, torch.ones(1, 3, 2), labels, torch.tensor([[0, 1, -1]])))
    assert motion[0, [0, 2]].count_nonzero() == 0
    assert motion[0, 1].count_nonzero() > 0


@settings(max_examples=40)
@given(st.integers(2, 32), st.floats(0, 60), st.floats(0.5, 60), st.integers(0, 2**31 - 1))
@torch.no_grad()
def test_the_same_motion_in_other_frames_is_the_same(frames, start_seconds, seconds, seed):
    """A box that goes its way evenly, seen when the loader sees it: its slope is the way of the whole clip."""
    first, last = torch.rand(2, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    times_T = torch.from_numpy(sample_times(start_seconds, start_seconds + seconds, frames))
    boxes_T4 = (first + (last - first) * ((times_T - start_seconds) / seconds)[:, None]).float()
    labels = torch.zeros(1, frames, 1, dtype=torch.int64)
    found = lines_through(boxes_T4[None, :, None], torch.ones(1, frames, 1), labels, labels[:, 0])
    assert found.moves_BN.all()
    torch.testing.assert_close(found.slopes_BN4[0, 0], (last - first).float(), atol=1e-5, rtol=1e-4)


@torch.no_grad()
def test_with_motion_a_fresh_token_tells_which_way_its_boxes_go():
    """Share of the variance of a displacement that a linear reader of other tokens explains, and of the tokens'
    energy that is not the same for all of them."""
    batch = random_batch(600, frames=4, max_boxes=1, seed=1)
    start, step = torch.rand(600, 1, 2) * 0.3 + 0.2, torch.rand(600, 1, 2) * 0.2 - 0.1
    corners = start + step * torch.arange(4)[:, None]
    boxes = torch.cat([corners, corners + 0.2], dim=-1)[:, :, None]
    batch = dataclasses.replace(batch, boxes_BTK4=boxes, labels_BTK=torch.zeros_like(batch.labels_BTK))
    explained, differing = {}, {}
    for motion in (False, True):
        model = tiny_model(num_frames=4, objects=ObjectConfig(num_trajectories=1, max_boxes=1, motion=motion))
        tokens = model.group(model.encode_video(batch), "objects")[:, 0].double()
        centred = tokens - tokens.mean(dim=0)
        differing[motion] = centred.square().sum() / tokens.square().sum()
        x = torch.cat([centred / tokens.std(dim=0), torch.ones(600, 1)], dim=1)
        y = step[:, 0].double()
        reader = torch.linalg.solve(x[:450].T @ x[:450] + torch.eye(x.shape[1]), x[:450].T @ y[:450])
        explained[motion] = 1 - (y[450:] - x[450:] @ reader).square().sum() / y[450:].square().sum()
    assert explained[True] > 0.9
    assert explained[False] < explained[True] - 0.2
    assert differing[True] > 2 * differing[False]


def noisy_scores(batch):
    """Those of a batch, and the same with none where there is no box."""
    return batch.scores_BTK, batch.scores_BTK.where(batch.labels_BTK >= 0, torch.nan)


def test_motion_learns_and_an_empty_box_has_none():
    model = tiny_model(num_frames=3, objects=ObjectConfig(num_trajectories=4, max_boxes=3, motion=True))
    batch = random_batch(4, frames=3)
    model.encode_video(batch).tokens_BGd.square().sum().backward()
    assert all(has_gradient(p) for p in model.motion.parameters())
    batch.labels_BTK[:, 0, 0] = -1
    changed = dataclasses.replace(batch, boxes_BTK4=batch.boxes_BTK4.clone())
    changed.boxes_BTK4[:, 0, 0] = torch.tensor([0.1, 0.1, torch.nan, 0.9])
    found = (
        lines_through(changed.boxes_BTK4, scores, batch.labels_BTK, batch.labels_BTK[:, 1])
        for scores in noisy_scores(batch)
    )
    torch.testing.assert_close(*found, atol=0, rtol=0)
    with torch.no_grad():
        tokens, same = (model.encode_video(clips).tokens_BGd for clips in (batch, changed))
    torch.testing.assert_close(tokens, same, atol=0, rtol=0)


def test_motion_changes_no_weight_of_the_others():
    """What has motion and what has not start alike, so that a study compares motion alone."""
    plain, moved = (
        tiny_model(objects=ObjectConfig(num_trajectories=4, max_boxes=3, motion=motion)).state_dict()
        for motion in (False, True)
    )
    assert {name for name in moved if name not in plain} == {name for name in moved if name.startswith("motion.")}
    for name, weight in plain.items():
        torch.testing.assert_close(weight, moved[name], atol=0, rtol=0)
