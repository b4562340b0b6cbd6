"""The choice of an answer, and language modelling behind a given prefix."""

import dataclasses

import pytest
import torch
from factories import fuse, has_gradient, random_batch, tiny_model
from torch.nn import functional as F

from stoa.objectives.answer import answer_loss, answer_pass
from stoa.objectives.config import ObjectivesConfig
from stoa.objectives.masks import bidirectional_mask, prefix_mask
from stoa.objectives.plm import draws_of, plm_loss, plm_pass, prefixes
from stoa.objectives.random import Stream, uniform
from stoa.objectives.total import TrainingObjective

ONLY = dict.fromkeys(("vtc", "vtm", "mlm", "plm", "ota", "asp"), 0.0)


@pytest.fixture
def model():
    return tiny_model(num_answers=7).double()


def encode(model, batch):
    return model.encode_video(batch), model.encode_text(batch.tokens_BL, batch.text_mask_BL)


def loss_of_plm(model, batch, video, text, prefix):
    draws = uniform(0, 0, batch.position_B, draws_of(batch))
    prefix_B = prefixes(batch, draws[Stream.PLM], prefix)
    asked = plm_pass(model, batch, video, text, prefix_B)
    return plm_loss(model, batch, model.fused(asked), prefix_B, model.language_table())


def test_the_loss_is_the_mean_over_questions_with_a_class(model):
    batch = dataclasses.replace(random_batch(4), target_B=torch.tensor([3, -1, 0, 6]))
    video, text = encode(model, batch)
    loss, accuracy = answer_loss(model, batch, model.fused(answer_pass(model, video, text, batch.text_mask_BL)))
    total, right = [], []
    for b in (0, 2, 3):
        seen = bidirectional_mask(batch.text_mask_BL[b : b + 1], video.valid_BG[b : b + 1])
        fused = fuse(model, video.tokens_BGd[b : b + 1], text.tokens_BLd[b : b + 1], seen)
        end = int(batch.text_mask_BL[b].sum()) - 1
        pooled = model.config.num_frames
        logits = model.answer_head(torch.cat([fused[0][0, pooled], fused[1][0, end]]))
        total.append(F.cross_entropy(logits[None], batch.target_B[b : b + 1]))
        right.append(float(logits.argmax() == batch.target_B[b]))
    torch.testing.assert_close(loss, torch.stack(total).mean(), rtol=1e-10, atol=1e-10)
    assert float(accuracy) == pytest.approx(sum(right) / 3)


def test_without_a_class_nothing_is_learned(model):
    video, text = encode(model, batch := random_batch(2))
    loss, _ = answer_loss(model, batch, model.fused(answer_pass(model, video, text, batch.text_mask_BL)))
    loss.backward()
    assert float(loss.detach()) == 0
    assert not has_gradient(model.answer_head[0].weight)


def test_a_given_prefix_goes_before_a_drawn_one(model):
    """As in captioning, and behind questions: the prefix sees itself, what follows is predicted."""
    batch = dataclasses.replace(random_batch(2, lengths=[8, 9]), prefix_B=torch.tensor([3, 5]))
    video, text = encode(model, batch)
    for prefix, lengths in (("random", [3, 5]), ("start", [3, 5])):
        found = loss_of_plm(model, batch, video, text, prefix)
        mask = prefix_mask(batch.text_mask_BL, torch.tensor(lengths), video.valid_BG)
        _, rows = fuse(model, video.tokens_BGd, text.tokens_BLd, mask)
        logits = model.language_logits(rows, model.language_table())
        targets = model.lm_head.targets(batch.tokens_BL)
        losses = [
            F.cross_entropy(logits[b, i - 1][None], targets[b, i][None])
            for b, n in enumerate(lengths)
            for i in range(n, int(batch.text_mask_BL[b].sum()))
        ]
        torch.testing.assert_close(found, torch.stack(losses).mean(), rtol=1e-10, atol=1e-10)
    captions = dataclasses.replace(batch, prefix_B=torch.zeros(2, dtype=torch.int64))
    ones = dataclasses.replace(batch, prefix_B=torch.ones(2, dtype=torch.int64))
    by_option = loss_of_plm(model, captions, video, text, "start")
    torch.testing.assert_close(by_option, loss_of_plm(model, ones, video, text, "random"))


def test_the_objective_has_it(model):
    batch = dataclasses.replace(random_batch(3), target_B=torch.tensor([1, 2, 3]))
    objective = TrainingObjective(model, ObjectivesConfig(**ONLY, answer=2.0), seed=0)
    total, scalars = objective(batch, 0)
    torch.testing.assert_close(total, 2 * scalars["answer"])
    assert 0 <= float(scalars["answer_accuracy"]) <= 1
    total.backward()
    assert has_gradient(model.answer_head[0].weight) and has_gradient(model.clip.visual.conv1.weight)


def test_answers_need_a_head():
    with pytest.raises(ValueError, match=r"objectives.answer is 1.0 and the model has no answer head"):
        TrainingObjective(tiny_model(), ObjectivesConfig(**ONLY, answer=1.0), seed=0)
