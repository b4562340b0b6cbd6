"""What tells whether a text belongs to a clip, by either form, against pairs taken alone, word by word."""

import math

import pytest
import torch
from factories import USED, fuse, grounded, random_batch, tiny_model
from torch.nn import functional as F

from stoa.models.config import GraphConfig
from stoa.objectives import plm
from stoa.objectives.config import ObjectivesConfig
from stoa.objectives.masks import bidirectional_mask
from stoa.objectives.pairs import Asked, match_log_probability, match_logits, match_pass
from stoa.objectives.total import TrainingObjective


def encoded(model, batch):
    with torch.no_grad():
        return model.encode_video(batch), model.encode_text(batch.tokens_BL, batch.text_mask_BL)


def asked_of(batch, video, text, clip=None):
    """Each text about the clip of that number, by default its own."""
    clip = torch.arange(len(batch.tokens_BL)) if clip is None else clip
    return Asked(video.tokens_BGd, video.valid_BG, clip, text.tokens_BLd, batch.tokens_BL, batch.text_mask_BL)


def logits_of(model, asked):
    return match_logits(model, model.fused(match_pass(model, asked)), asked.token_ids_NL, asked.text_mask_NL)[0]


@pytest.fixture(params=[False, True], ids=["attention alone", "grounding"])
def likely(request):
    model = tiny_model(match_by="likelihood", graph=GraphConfig(layers=1), **grounded(request.param)).eval()
    with torch.no_grad():
        model.match_scale.fill_(0.7)
        model.lm_head.bias.normal_()
    return model


@torch.no_grad()
def test_the_likelihood_is_that_of_a_growing_text(likely):
    """Each word is asked for by a pass of its own, which holds nothing of what is behind it."""
    batch = random_batch(4, lengths=[12, 5, 3, 8])
    batch.tokens_BL[0, 4] = 7  # outside of the vocabulary of the language head
    video, text = encoded(likely, batch)
    G = video.tokens_BGd.shape[1]
    found = logits_of(likely, asked_of(batch, video, text))
    for b in range(4):
        length = int(batch.text_mask_BL[b].sum())
        total = 0.0
        for known in range(1, length + 1):
            mask = torch.cat([video.valid_BG[b], torch.ones(known, dtype=torch.bool)]).repeat(G + known, 1)
            mask[:, G:] &= torch.ones(G + known, known, dtype=torch.bool).tril(-G)
            mask[:G, G] = True  # the start token, of which all captions have the same
            outs = fuse(likely, video.tokens_BGd[b : b + 1], text.tokens_BLd[b : b + 1, :known], mask[None])
            if known < length and int(batch.tokens_BL[b, known]) in USED:
                of_all = likely.language_logits(outs[1][0, -1], likely.language_table()).log_softmax(dim=0)
                total += float(of_all[USED.index(int(batch.tokens_BL[b, known]))])
        ends = torch.cat([outs[0][0, likely.config.num_frames], outs[1][0, -1]])
        expected = likely.match_head(ends) + torch.tensor([0.0, 0.7 * total])
        torch.testing.assert_close(found[b], expected, atol=1e-4, rtol=1e-4)


@torch.no_grad()
def test_by_the_ends_it_is_the_head_alone():
    model, batch = tiny_model().eval(), random_batch(3)
    video, text = encoded(model, batch)
    seen = bidirectional_mask(batch.text_mask_BL, video.valid_BG)
    outs = fuse(model, video.tokens_BGd, text.tokens_BLd, seen)
    ends = batch.text_mask_BL.sum(dim=1) - 1
    rows = torch.cat([outs[0][:, model.config.num_frames], outs[1][torch.arange(3), ends]], dim=1)
    torch.testing.assert_close(logits_of(model, asked_of(batch, video, text)), model.match_head(rows))


@pytest.mark.parametrize("grounding", [False, True])
@pytest.mark.parametrize("match_by", ["ends", "likelihood"])
def test_a_probability_is_of_its_pair_alone(match_by, grounding):
    model = tiny_model(match_by=match_by, **grounded(grounding)).eval()
    batch = random_batch(5)
    video, text = encoded(model, batch)
    clip = torch.tensor([3, 0, 3, 4, 3])
    asked = asked_of(batch, video, text, clip)
    whole = match_log_probability(model, asked)
    alone = []
    for b in range(5):
        (tokens, valid), of_text = (x[clip[b], None] for x in asked[:2]), (x[b, None] for x in asked[3:])
        alone.append(match_log_probability(model, Asked(tokens, valid, torch.zeros(1, dtype=torch.int64), *of_text)))
    torch.testing.assert_close(whole, torch.cat(alone), atol=1e-5, rtol=1e-5)
    logits = logits_of(model, asked)
    torch.testing.assert_close(whole, logits.log_softmax(dim=1)[:, 1])


def test_matching_teaches_the_language_head(likely):
    """Of a text that does not belong, words become less likely."""
    none = dict.fromkeys(("vtc", "mlm", "plm", "ota", "asp"), 0.0)
    objective = TrainingObjective(likely.train(), ObjectivesConfig(**none), seed=0)
    loss, _ = objective(random_batch(6), 0)
    loss.backward()
    for name in ("match_scale", "lm_head.dense.weight", "lm_head.bias", "match_head.weight"):
        assert likely.get_parameter(name).grad.abs().sum() > 0, name


def test_siblings_are_told_apart_in_a_few_steps():
    """Two texts of the same words in another order, each of one of two clips: what a set of words does not show."""
    losses = {}
    for match_by in ("ends", "likelihood"):
        model = tiny_model(match_by=match_by)
        batch = random_batch(2, lengths=[8, 8])
        batch.tokens_BL[1] = batch.tokens_BL[0]
        batch.tokens_BL[1, 2], batch.tokens_BL[1, 5] = batch.tokens_BL[0, 5].clone(), batch.tokens_BL[0, 2].clone()
        batch.caption_keys_B[:] = torch.arange(2)
        none = dict.fromkeys(("vtc", "mlm", "ota", "asp"), 0.0)
        objective = TrainingObjective(model, ObjectivesConfig(**none), seed=0)
        optimizer = torch.optim.AdamW(model.parameters(), 1e-3)
        for step in range(60):
            optimizer.zero_grad()
            loss, scalars = objective(batch, step)
            loss.backward()
            optimizer.step()
        losses[match_by] = float(scalars["vtm"])
    entropy = math.log(3) - 2 / 3 * math.log(2)
    assert losses["likelihood"] < 0.5 * entropy < losses["ends"]


@pytest.mark.parametrize("given", [False, True])
def test_a_pass_that_serves_two_losses_gives_what_two_passes_do(likely, given, monkeypatch):
    """Losses and gradients; where the data give a prefix, its words do not count and are read one by one."""
    batch = random_batch(5, lengths=[12, 5, 3, 8, 9])
    if given:
        batch.prefix_B[:] = torch.tensor([0, 2, 0, 4, 1])
    alone, found = plm.plm_pass, []

    def all_but_the_start(*args, **form):
        *others, prefix_B = args
        return alone(*others, torch.ones_like(prefix_B), **form)

    monkeypatch.setattr(plm, "plm_pass", all_but_the_start)  # a prefix is left out of the loss alone
    for shared in (True, False):
        objective = TrainingObjective(likely, ObjectivesConfig(plm_prefix="start", mlm=0.0), seed=0)
        assert objective.plm_in_vtm
        objective.plm_in_vtm = shared
        likely.zero_grad()
        loss, scalars = objective(batch, 0)
        loss.backward()
        found.append((scalars, {n: p.grad.clone() for n, p in likely.named_parameters() if p.grad is not None}))
    (one, of_one), (two, of_two) = found
    torch.testing.assert_close(one, two)
    assert of_one.keys() == of_two.keys()
    for name, gradient in of_one.items():
        torch.testing.assert_close(gradient, of_two[name], atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize(
    "changes", [{"plm_prefix": "random"}, {"vtm": 0.0}, {"plm": 0.0}], ids=["a drawn prefix", "no VTM", "no PLM"]
)
def test_other_losses_have_a_pass_each(likely, changes):
    config = ObjectivesConfig(**{"plm_prefix": "start"} | changes)
    assert not TrainingObjective(likely, config, seed=0).plm_in_vtm
    assert not TrainingObjective(tiny_model(), ObjectivesConfig(plm_prefix="start"), seed=0).plm_in_vtm


def test_one_head_cannot_read_two_forms(likely):
    with pytest.raises(ValueError, match="objectives.plm_form is 'two_stream' and model.match_by 'likelihood'"):
        TrainingObjective(likely, ObjectivesConfig(plm_form="two_stream"), seed=0)
    TrainingObjective(tiny_model(), ObjectivesConfig(plm_form="two_stream"), seed=0)


def test_words_outside_of_the_vocabulary_do_not_count(likely):
    batch = random_batch(1, lengths=[3])
    batch.tokens_BL[0, 1] = 7
    video, text = encoded(likely, batch)
    rows = likely.fused(match_pass(likely, asked_of(batch, video, text)))
    end = likely.language_logits(rows[0, 3], likely.language_table()).log_softmax(dim=0)[USED.index(49407)]
    expected = F.linear(rows[0, :2].flatten(), likely.match_head.weight, likely.match_head.bias)
    expected = expected + torch.stack([torch.zeros(()), 0.7 * end])
    found = match_logits(likely, rows, batch.tokens_BL, batch.text_mask_BL)[0][0]
    torch.testing.assert_close(found, expected)
