"""What words are given of their clip, against the same word by word, and where it goes."""

import math

import pytest
import torch
from factories import random_batch, tiny_config, tiny_model
from torch.nn import functional as F

from stoa.models.config import ActionConfig, FusionConfig, ObjectConfig
from stoa.models.grounding import Grounding
from stoa.objectives.config import ObjectivesConfig
from stoa.objectives.total import TrainingObjective

LOSSES = ("vtc", "vtm", "mlm", "plm", "ota", "asp", "answer")


def grounded_model(**changes):
    return tiny_model(**{"fusion": FusionConfig(layers=2, grounding=True), **changes})


@pytest.mark.parametrize("given", [None, [2, 0, 2, 1, 1]], ids=["its own clip", "a clip by number"])
def test_it_is_the_sum_word_by_word(given):
    N, L, K, d = (3 if given is None else 5), 4, 3, 8
    text, tokens, meanings = torch.randn(N, L, d), torch.randn(3, K, d), torch.randn(3, K, d)
    valid = torch.tensor([[True, True, False], [True, True, True], [False, False, False]])
    starts = torch.tensor([[True, False, False, False]])
    grounding = Grounding()
    torch.nn.init.constant_(grounding.null_logit, 1.5)
    found = grounding(text, starts, tokens, meanings, valid, None if given is None else torch.tensor(given))
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


@pytest.mark.parametrize("loss", ["vtm", "mlm", "plm", "answer"])
@pytest.mark.parametrize("changes", [{}, {"match_by": "likelihood"}, {"plm_form": "two_stream"}], ids=str)
def test_every_loss_of_the_fusion_encoder_reads_it(loss, changes):
    model = grounded_model(match_by=changes.get("match_by", "ends"), num_answers=3)
    weights = dict.fromkeys(LOSSES, 0.0) | {loss: 1.0}
    config = ObjectivesConfig(**weights, plm_form=changes.get("plm_form", "one_pass"))
    batch = random_batch(4)
    batch.target_B[:] = torch.arange(4) % 3
    TrainingObjective(model, config, seed=0)(batch, 0)[0].backward()
    assert model.grounding.null_logit.grad.abs() > 0


def test_without_it_text_enters_as_it_is():
    model, batch = tiny_model(), random_batch(3)
    video, text = model.encode_video(batch), model.encode_text(batch.tokens_BL, batch.text_mask_BL)
    assert model.grounded(text.tokens_BLd, video.tokens_BGd, video.valid_BG) is text.tokens_BLd
    assert not any(name.startswith("grounding") for name in model.state_dict())


@pytest.mark.parametrize("objects", [0, 4])
@pytest.mark.parametrize("actions", [0, 3])
def test_words_are_compared_with_what_there_is(objects, actions):
    changes = {
        "objects": ObjectConfig(num_trajectories=objects, max_boxes=3, word_head=True),
        "actions": ActionConfig(num_tokens=actions, word_head=True),
    }
    if not objects + actions:
        with pytest.raises(ValueError, match="model.fusion.grounding is true and there is nothing for words to mean"):
            tiny_config(fusion=FusionConfig(layers=2, grounding=True), **changes)
        return
    model, batch = grounded_model(**changes), random_batch(3)
    heads = [head for head, count in ((model.word_head, objects), (model.verb_head, actions)) if count]
    video, text = model.encode_video(batch), model.encode_text(batch.tokens_BL, batch.text_mask_BL)
    found = model.grounded(text.tokens_BLd, video.tokens_BGd, video.valid_BG)
    assert found.shape == text.tokens_BLd.shape
    torch.testing.assert_close(found[:, 0], F.layer_norm(text.tokens_BLd[:, 0], found.shape[-1:]))
    found.square().sum().backward()
    assert all(head.weight.grad.abs().sum() > 0 for head in heads)


def test_a_text_reads_nothing_of_trajectories_that_its_clip_lacks():
    model, batch = grounded_model(), random_batch(2)
    video, text = model.encode_video(batch), model.encode_text(batch.tokens_BL, batch.text_mask_BL)
    slot = model.fusion.slot("objects")
    valid = video.valid_BG.clone()
    valid[:, slot.start] = False
    changed = video.tokens_BGd.clone()
    changed[:, slot.start] += 100
    one, other = (model.grounded(text.tokens_BLd, tokens, valid) for tokens in (video.tokens_BGd, changed))
    torch.testing.assert_close(one, other)
