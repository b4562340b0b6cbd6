"""Self-similarity as VTC's target."""

import math
from dataclasses import replace

import pytest
import torch
from factories import random_batch, tiny_model
from torch.nn import functional as F

from stoa.objectives.config import CsalConfig, ObjectivesConfig
from stoa.objectives.csal import csal_targets
from stoa.objectives.total import TrainingObjective
from stoa.objectives.vtc import csal_loss, similarities, vtc_loss

AS_RELEASED = {"scale": 5.0, "mass": 0.5, "cut": 0.05}


def cosines(size: int, width: int, seed: int) -> torch.Tensor:
    x = F.normalize(torch.randn(size, width, generator=torch.Generator().manual_seed(seed), dtype=torch.float64), dim=1)
    return x @ x.T


def test_the_formula_written_out():
    video, text = cosines(5, 4, 0), cosines(5, 4, 1)
    targets = csal_targets(video, text, **AS_RELEASED)
    for i in range(5):
        alike = [max(0.0, video[i, j].item()) * max(0.0, text[i, j].item()) for j in range(5)]
        weights = [math.exp(5 * c) if c >= 0.05 else 0.0 for c in alike]
        assert targets[i].tolist() == pytest.approx([w / sum(weights) for w in weights], abs=1e-12)


def test_clips_with_nothing_in_common_have_their_own_pair_alone():
    eye = torch.eye(4)
    for scale in (5.0, None):
        assert torch.equal(csal_targets(eye, eye, scale=scale, mass=0.5, cut=0.05), eye)


def test_the_same_clip_and_caption_share():
    same = torch.eye(4)
    same[0, 2] = same[2, 0] = 1
    for scale in (5.0, None):
        targets = csal_targets(same, same, scale=scale, mass=0.9, cut=0.05)
        assert targets[0].tolist() == targets[2].tolist() == [0.5, 0, 0.5, 0]
    assert csal_targets(same, torch.eye(4), **AS_RELEASED)[0, 2] == 0  # alike in one of the two is not enough


@pytest.mark.parametrize("size", [64, 256, 1024])
@pytest.mark.parametrize("alike", [0.1, 0.2, 0.4])
def test_the_mass_that_is_held(size, alike):
    """A fixed scale of 5 leaves the own pair less and less as the batch grows."""
    level = torch.full((size, size), math.sqrt(alike)).fill_diagonal_(1)
    fixed = csal_targets(level, level, **AS_RELEASED).diagonal()
    assert fixed.mean().item() == pytest.approx(1 / (1 + (size - 1) * math.exp(5 * (alike - 1))), rel=1e-4)
    held = csal_targets(level, level, scale=None, mass=0.5, cut=0.05)
    assert held.diagonal().mean().item() == pytest.approx(max(0.5, fixed.mean().item()), rel=1e-3)
    torch.testing.assert_close(held.sum(dim=1), torch.ones(size))


def test_repeats_have_no_part_in_the_mass():
    """Of 64 clips 16 are there twice; what is left of the others is alike by 0.4."""
    level = torch.full((64, 64), math.sqrt(0.4)).fill_diagonal_(1)
    keys = torch.arange(64).where(torch.arange(64) < 48, torch.arange(64) - 48)
    repeats = keys[:, None] == keys
    level = level.masked_fill(repeats, 1)
    held = csal_targets(level, level, repeats, scale=None, mass=0.5, cut=0.05)
    assert held.diagonal().mean().item() == pytest.approx(0.5, rel=1e-3)
    assert not held[repeats & ~torch.eye(64, dtype=torch.bool)].any()
    torch.testing.assert_close(held.sum(dim=1), torch.ones(64))


def test_few_alike_are_not_given_more_than_the_release_gives_them():
    few = torch.eye(64)
    few[0, 1] = few[1, 0] = 0.5
    targets = csal_targets(few, few, scale=None, mass=0.5, cut=0.05)
    torch.testing.assert_close(targets, csal_targets(few, few, **AS_RELEASED))


def scored(size: int = 6, clip_keys: list[int] | None = None):
    torch.manual_seed(0)
    video, text = torch.randn(2, size, 5, dtype=torch.float64).unbind(0)
    video.requires_grad_()
    keys = torch.arange(size) if clip_keys is None else torch.tensor(clip_keys)
    return video, similarities(video, text, torch.tensor([2.0]).double(), keys, 100 + torch.arange(size))


@pytest.mark.parametrize("share", [1.0, 0.3])
@pytest.mark.parametrize("smoothing", [0.0, 0.01])
def test_the_loss_is_that_of_soft_targets(share, smoothing):
    _, scores = scored()
    config = CsalConfig(share=share, scale=5.0, smoothing=smoothing)
    targets = csal_targets(scores.video_Ad @ scores.video_Ad.T, scores.text_Ad @ scores.text_Ad.T, **AS_RELEASED)
    targets = share * targets + (1 - share) * torch.eye(6)
    both = (scores.video_to_text_BA, scores.text_to_video_BA)
    expected = sum(F.cross_entropy(x, targets, label_smoothing=smoothing) for x in both) / 2
    torch.testing.assert_close(csal_loss(scores, config)[0], expected)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("share", [0.3, 1.0])
def test_the_same_clip_twice_is_neither_target_nor_negative(share, smoothing):
    """Each of the two is scored as if the other were not there."""
    keys = torch.tensor([0, 1, 2, 3, 4, 0])
    _, scores = scored(clip_keys=keys.tolist())
    rows = []
    for row in range(6):
        others = [column for column in range(6) if column == row or keys[column] != keys[row]]
        cosines = (x[others] @ x[others].T for x in (scores.video_Ad, scores.text_Ad))
        place = torch.tensor(others.index(row))
        target = share * csal_targets(*cosines, **AS_RELEASED)[place] + (1 - share) * F.one_hot(place, len(others))
        for x in (scores.video_to_text_BA, scores.text_to_video_BA):
            rows.append(F.cross_entropy(x[row, others], target, label_smoothing=smoothing))
    loss, own = csal_loss(scores, CsalConfig(share=share, scale=5.0, smoothing=smoothing))
    assert 0 < own < 1
    torch.testing.assert_close(loss, sum(rows) / len(rows))


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_without_a_share_it_is_vtc(smoothing):
    _, repeated = scored(clip_keys=[0, 1, 2, 3, 4, 0])
    torch.testing.assert_close(
        csal_loss(repeated, CsalConfig(share=0.0, smoothing=smoothing))[0], vtc_loss(repeated, smoothing=smoothing)
    )
    _, scores = scored()
    loss, _ = csal_loss(scores, CsalConfig(share=0.0, smoothing=smoothing))
    torch.testing.assert_close(loss, vtc_loss(scores, smoothing=smoothing))
    both = (scores.video_to_text_BA, scores.text_to_video_BA)
    own = torch.arange(6)
    expected = sum(F.cross_entropy(x, own, label_smoothing=smoothing) for x in both) / 2
    torch.testing.assert_close(loss, expected)


def test_smoothing_is_not_spread_over_masked_pairs():
    video, text = torch.randn(2, 4, 5, generator=torch.Generator().manual_seed(0)).unbind(0)
    keys = torch.tensor([0, 1, 2, 0])
    scores = similarities(video, text, torch.tensor([2.0]), keys, torch.arange(4))
    logs = scores.video_to_text_BA[0, :3].log_softmax(0), scores.text_to_video_BA[0, :3].log_softmax(0)
    first = -sum(0.9 * log[0] + 0.1 * log.mean() for log in logs) / 2
    others = [
        F.cross_entropy(x[1:3], torch.tensor([1, 2]), label_smoothing=0.1, reduction="none")
        for x in (scores.video_to_text_BA, scores.text_to_video_BA)
    ]
    last = -sum(
        0.9 * log[2] + 0.1 * log.mean()
        for log in (x[3, 1:].log_softmax(0) for x in (scores.video_to_text_BA, scores.text_to_video_BA))
    )
    expected = (first + (others[0] + others[1]).sum() / 2 + last / 2) / 4
    torch.testing.assert_close(vtc_loss(scores, smoothing=0.1), expected)


@pytest.mark.parametrize("accumulation", [1, 3])
def test_the_second_stage_begins_at_its_optimiser_step(accumulation):
    model, batch = tiny_model(), random_batch(4)
    weights = {"vtc": 1.0, "vtm": 0.0, "mlm": 0.0, "plm": 0.0, "ota": 0.0, "asp": 0.0}
    config = ObjectivesConfig(**weights, csal=CsalConfig(share=1.0, from_step=5))
    objective = TrainingObjective(model, config, seed=0, accumulation=accumulation)
    own, alike = (
        TrainingObjective(model, replace(config, csal=csal), seed=0)(batch, 0)[0]
        for csal in (CsalConfig(), CsalConfig(share=1.0))
    )
    assert not torch.isclose(own, alike)
    begins = 5 * accumulation
    assert [objective(batch, step)[0] for step in (0, begins - 1)] == [own, own]
    assert [objective(batch, step)[0] for step in (begins, begins + 7)] == [alike, alike]


def test_a_cut_above_one_leaves_the_own_pair():
    _, scores = scored()
    loss, own = csal_loss(scores, CsalConfig(share=1.0, cut=2.0, smoothing=0.1))
    assert own == 1
    torch.testing.assert_close(loss, vtc_loss(scores, smoothing=0.1))


def test_the_share_of_the_own_pairs_is_logged():
    _, scores = scored()
    targets = csal_targets(scores.video_Ad @ scores.video_Ad.T, scores.text_Ad @ scores.text_Ad.T, **AS_RELEASED)
    torch.testing.assert_close(csal_loss(scores, CsalConfig(share=0.3, scale=5.0))[1], targets.diagonal().mean())
    weights = {"vtc": 1.0, "vtm": 0.0, "mlm": 0.0, "plm": 0.0, "ota": 0.0, "asp": 0.0}
    config = ObjectivesConfig(**weights, csal=CsalConfig(share=1.0, from_step=1))
    objective, batch = TrainingObjective(tiny_model(), config, seed=0), random_batch(4)
    first, second = objective(batch, 0)[1], objective(batch, 1)[1]
    assert list(first) == list(second), "steps are logged several at a time"
    assert first["csal_own"].isnan() and 0.5 <= second["csal_own"] <= 1


def test_it_needs_vtc():
    with pytest.raises(ValueError, match=r"objectives.csal.share is 1.0 and objectives.vtc, .* is 0; raise vtc or"):
        ObjectivesConfig(vtc=0.0, csal=CsalConfig(share=1.0))


def test_no_gradient_reaches_the_targets():
    video, scores = scored()
    config = CsalConfig(share=1.0, scale=5.0, smoothing=0.0)
    (ours,) = torch.autograd.grad(csal_loss(scores, config)[0], video)
    video, scores = scored()
    targets = csal_targets(scores.video_Ad @ scores.video_Ad.T, scores.text_Ad @ scores.text_Ad.T, **AS_RELEASED)
    loss = sum(F.cross_entropy(x, targets.detach()) for x in (scores.video_to_text_BA, scores.text_to_video_BA)) / 2
    (expected,) = torch.autograd.grad(loss, video)
    torch.testing.assert_close(ours, expected)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"share": 1.5}, "objectives.csal.share is 1.5; expected 0 to 1"),
        ({"from_step": -1}, "objectives.csal.from_step is -1; expected 0 or more"),
        ({"scale": 0.0}, "objectives.csal.scale is 0.0; expected more than 0, or auto"),
        ({"scale": 5.0, "mass": 0.9}, "objectives.csal.mass is 0.9 and scale 5.0; only a scale of auto holds a mass"),
    ],
)
def test_bad_values(changes, message):
    with pytest.raises(ValueError, match=message):
        CsalConfig(**changes)
