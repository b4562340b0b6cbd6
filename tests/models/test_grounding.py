"""What words are given of their clip, against the same word by word, and where it goes."""

import math

import pytest
import torch
from factories import grounded, random_batch, tiny_config, tiny_model
from torch.nn import functional as F

from stoa.models.config import ActionConfig, ObjectConfig
from stoa.models.grounding import Grounding, Meanings
from stoa.objectives.config import ObjectivesConfig
from stoa.objectives.total import TrainingObjective

LOSSES = ("vtc", "vtm", "mlm", "plm", "ota", "asp", "answer")


@pytest.mark.parametrize("given", [None, [2, 0, 2, 1, 1]], ids=["its own clip", "a clip by number"])
def test_it_is_the_sum_word_by_word(given):
    N, L, K, d = (3 if given is None else 5), 4, 3, 8
    text, tokens, meanings = torch.randn(N, L, d), torch.randn(3, K, d), torch.randn(3, K, d)
    valid = torch.tensor([[True, True, False], [True, True, True], [False, False, False]])
    starts = torch.tensor([[True, False, False, False]])
    grounding = Grounding()
    torch.nn.init.constant_(grounding.null_logit, 1.5)
    of_texts = Meanings.of_clips(tokens, meanings, valid, None if given is None else torch.tensor(given))
    found = grounding(text, starts, of_texts)
    for n in range(N):
        clip = n if given is None else given[n]
        for place in range(L):
            expected = F.layer_norm(text[n, place], (d,))
            weights = {"nothing": math.exp(1.5)}
            for k in range(K):
                if place and valid[clip, k]:
                    cosine = F.cosine_similarity(text[n, place], meanings[clip, k], dim=0)
                    weights[k] = math.exp(float(cosine) / 0.1)
            for k, weight in weights.items():
                if k != "nothing":
                    share = weight / sum(weights.values())
                    expected = expected + share * F.layer_norm(tokens[clip, k], (d,))
            torch.testing.assert_close(found[n, place], expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("loss", "match_by", "plm_form"),
    [
        ("vtm", "ends", "one_pass"),
        ("vtm", "likelihood", "one_pass"),
        ("mlm", "ends", "one_pass"),
        ("plm", "ends", "one_pass"),
        ("plm", "ends", "two_stream"),
        ("answer", "ends", "one_pass"),
    ],
)
def test_every_loss_of_the_fusion_encoder_reads_it(loss, match_by, plm_form):
    model = tiny_model(match_by=match_by, num_answers=3, **grounded())
    weights = dict.fromkeys(LOSSES, 0.0) | {loss: 1.0}
    config = ObjectivesConfig(**weights, plm_form=plm_form)
    batch = random_batch(4)
    batch.target_B[:] = torch.arange(4) % 3
    TrainingObjective(model, config, seed=0)(batch, 0)[0].backward()
    assert model.grounding.null_logit.grad.abs() > 0


def test_without_it_text_enters_as_it_is():
    model, batch = tiny_model(), random_batch(3)
    video, text = model.encode_video(batch), model.encode_text(batch.tokens_BL, batch.text_mask_BL)
    assert model.grounded(text.tokens_BLd, model.meanings(video.tokens_BGd, video.valid_BG)) is text.tokens_BLd
    assert not any(name.startswith("grounding") for name in model.state_dict())


@pytest.mark.parametrize(("objects", "actions"), [(True, True), (True, False), (False, True)])
def test_words_are_compared_with_what_is_on(objects, actions):
    model = tiny_model(
        objects=ObjectConfig(num_trajectories=4, max_boxes=3, word_head=True, grounding=objects),
        actions=ActionConfig(num_tokens=3, word_head=True, grounding=actions),
    )
    batch = random_batch(3)
    video, text = model.encode_video(batch), model.encode_text(batch.tokens_BL, batch.text_mask_BL)
    video_BGd = video.tokens_BGd.detach().requires_grad_()
    found = model.grounded(text.tokens_BLd, model.meanings(video_BGd, video.valid_BG))
    torch.testing.assert_close(found[:, 0], F.layer_norm(text.tokens_BLd[:, 0], found.shape[-1:]))
    found[:, 1:].square().sum().backward()
    reached = video_BGd.grad.abs().sum(dim=(0, 2)) > 0
    expected = torch.zeros_like(reached)
    for name, head, is_on in (("objects", model.word_head, objects), ("actions", model.verb_head, actions)):
        expected[model.fusion.slot(name)] = is_on
        assert (head.weight.grad is not None) == is_on
    torch.testing.assert_close(reached, expected)


@pytest.mark.parametrize("left_out", ["objects", "actions"])
def test_what_a_model_lacks_is_not_compared_with(left_out):
    changes = {"objects": ObjectConfig(num_trajectories=0), "actions": ActionConfig(num_tokens=0)}
    config = tiny_config(**grounded() | {left_out: changes[left_out]})
    assert config.grounded_groups == tuple(name for name in changes if name != left_out)
    assert tiny_config(**changes).grounded_groups == ()


def test_a_text_reads_nothing_of_trajectories_that_its_clip_lacks():
    model, batch = tiny_model(**grounded()), random_batch(2)
    video, text = model.encode_video(batch), model.encode_text(batch.tokens_BL, batch.text_mask_BL)
    slot = model.fusion.slot("objects")
    valid = video.valid_BG.clone()
    valid[:, slot.start] = False
    changed = video.tokens_BGd.clone()
    changed[:, slot.start] += 100
    one, other = (
        model.grounded(text.tokens_BLd, model.meanings(tokens, valid)) for tokens in (video.tokens_BGd, changed)
    )
    torch.testing.assert_close(one, other)
