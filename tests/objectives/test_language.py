"""MLM and PLM: what they hide stays hidden."""

import dataclasses

import pytest
import torch
from factories import WORDS, fuse, random_batch, tiny_model
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional as F

from stoa.objectives import mlm
from stoa.objectives.config import ObjectivesConfig
from stoa.objectives.masks import bidirectional_mask, prefix_mask
from stoa.objectives.mlm import choose_masked, hide_words, language_loss, mlm_loss, mlm_pass
from stoa.objectives.plm import blanks_pass, draw_prefix, plm_loss, plm_pass, prefixes
from stoa.objectives.random import Stream, uniform


@given(lengths=st.lists(st.integers(2, 20), min_size=1, max_size=8), seed=st.integers(0, 100))
def test_masked_words_are_words_and_as_many_as_promised(lengths, seed):
    L = 20
    text_mask = torch.arange(L) < torch.tensor(lengths)[:, None]
    numbers = drawn(Stream.MLM, torch.arange(len(lengths)), L, seed=seed)
    positions, valid = choose_masked(text_mask, numbers)
    for n, row, keep in zip(lengths, positions, valid, strict=True):
        chosen = row[keep].tolist()
        words = n - 2
        assert len(chosen) == min(words, max(1, round(0.15 * words)))
        assert len(set(chosen)) == len(chosen)
        assert all(1 <= p <= n - 2 for p in chosen)


def drawn(stream, rows, columns, seed=0):
    return uniform(seed, 0, rows, {stream: columns})[stream]


def loss_of_mlm(model, batch, kept_share=0.0):
    hidden = hide_words(batch, drawn(Stream.MLM, batch.position_B, 24), kept_share=kept_share)
    video = model.encode_video(batch)
    _, hidden_text = model.encode_text_twice(batch.tokens_BL, batch.text_mask_BL, hidden.hidden_BL)
    rows = model.fused(mlm_pass(model, batch, video, hidden_text, hidden))
    return mlm_loss(model, batch, rows, hidden, model.language_table())


def loss_of_plm(model, batch, video, text, numbers, *, prefix="random", **form):
    prefix_B = prefixes(batch, numbers, prefix)
    asked = plm_pass(model, batch, video, text, prefix_B, **form)
    return plm_loss(model, batch, model.fused(asked), prefix_B, model.language_table())


def at_blanks(model, batch, video, text, wanted):
    return model.fused(
        blanks_pass(model, video.tokens_BGd, video.valid_BG, text.tokens_BLd, batch.text_mask_BL, wanted)
    )


def masked_logits(model, batch, monkeypatch, kept_share=0.0):
    """Logits that MLM supervises, and the hidden positions."""
    seen = {}

    def spy(model, table, rows, targets, valid):
        seen.update(logits=model.language_logits(rows, table), targets=targets, valid=valid)
        return language_loss(model, table, rows, targets, valid)

    monkeypatch.setattr(mlm, "language_loss", spy)
    loss_of_mlm(model, batch, kept_share)
    return seen


def test_the_id_under_a_mask_changes_no_logit(monkeypatch):
    model, batch = tiny_model().double(), random_batch(6)
    before = masked_logits(model, batch, monkeypatch)
    numbers = drawn(Stream.MLM, batch.position_B, 12)
    positions, valid = choose_masked(batch.text_mask_BL, numbers)
    changed = batch.tokens_BL.clone()
    for b in range(6):
        for p in positions[b][valid[b]]:
            changed[b, p] = WORDS.start if changed[b, p] != WORDS.start else WORDS.start + 1
    assert not torch.equal(changed, batch.tokens_BL)
    after = masked_logits(model, dataclasses.replace(batch, tokens_BL=changed), monkeypatch)
    assert torch.equal(before["logits"], after["logits"])
    assert not torch.equal(before["targets"], after["targets"])


def hidden_words(model, batch, monkeypatch, kept_share):
    """Which words the text tower does not get (B, L), and the supervised ones (B, Q)."""
    seen = {}
    encode = model.encode_text_twice

    def spy(tokens, mask, hidden):
        seen.update(hidden=hidden)
        return encode(tokens, mask, hidden)

    with monkeypatch.context() as patch:
        patch.setattr(model, "encode_text_twice", spy)
        supervised = masked_logits(model, batch, patch, kept_share)["valid"]
    return seen["hidden"], supervised


def test_kept_words_are_supervised_and_stay_in_place(monkeypatch):
    model, batch = tiny_model(), random_batch(64, lengths=[12] * 64)
    hidden, supervised = hidden_words(model, batch, monkeypatch, 0.0)
    half_hidden, half_supervised = hidden_words(model, batch, monkeypatch, 0.5)
    none_hidden, all_supervised = hidden_words(model, batch, monkeypatch, 1.0)
    assert torch.equal(supervised, half_supervised) and torch.equal(supervised, all_supervised)
    assert hidden.sum() == supervised.sum() == 128
    assert not none_hidden.any()
    assert not (half_hidden & ~hidden).any()
    assert 40 <= half_hidden.sum() <= 88  # 64, four standard deviations each way


def test_a_share_of_kept_words_is_a_share():
    with pytest.raises(ValueError, match=r"objectives.mlm_kept_share is 1.5; expected 0 to 1"):
        ObjectivesConfig(mlm_kept_share=1.5)


def test_a_visible_word_changes_the_logits(monkeypatch):
    """The test above would pass on a model that reads nothing."""
    model, batch = tiny_model().double(), random_batch(2, lengths=[10, 10])
    numbers = drawn(Stream.MLM, batch.position_B, 12)
    positions, valid = choose_masked(batch.text_mask_BL, numbers)
    hidden = set(positions[0][valid[0]].tolist())
    visible = next(p for p in range(1, 9) if p not in hidden)
    changed = batch.tokens_BL.clone()
    changed[0, visible] = WORDS.start if changed[0, visible] != WORDS.start else WORDS.start + 1
    before = masked_logits(model, batch, monkeypatch)["logits"]
    after = masked_logits(model, dataclasses.replace(batch, tokens_BL=changed), monkeypatch)["logits"]
    assert not torch.allclose(before[0], after[0])


@given(lengths=st.lists(st.integers(2, 20), min_size=1, max_size=6), seed=st.integers(0, 50))
def test_prefixes_are_between_one_and_all_but_one(lengths, seed):
    text_mask = torch.arange(20) < torch.tensor(lengths)[:, None]
    prefix = draw_prefix(text_mask, drawn(Stream.PLM, torch.arange(len(lengths)), 1, seed=seed)[:, 0])
    assert all(1 <= p <= n - 1 for p, n in zip(prefix.tolist(), lengths, strict=True))


def test_prefixes_are_uniform():
    text_mask = torch.ones(6000, 7, dtype=torch.bool)
    prefix = draw_prefix(text_mask, drawn(Stream.PLM, torch.arange(6000), 1)[:, 0])
    torch.testing.assert_close(
        torch.bincount(prefix, minlength=7)[1:] / 6000, torch.full((6,), 1 / 6), atol=0.02, rtol=0
    )


@pytest.mark.parametrize("prefix", [1, 2, 5, 8])
def test_later_tokens_are_never_seen(prefix):
    """For j >= prefix, token j changes no row before j and no video row; the text tower is included."""
    model, batch = tiny_model().double(), random_batch(1, lengths=[9])
    video = model.encode_video(batch)
    mask = prefix_mask(batch.text_mask_BL, torch.tensor([prefix]), video.valid_BG)

    def outputs(tokens):
        text = model.encode_text(tokens, batch.text_mask_BL)
        return fuse(model, video.tokens_BGd, text.tokens_BLd, mask)

    before_video, before_text = outputs(batch.tokens_BL)
    for j in range(prefix, 9):
        changed = batch.tokens_BL.clone()
        changed[0, j] = WORDS.start if changed[0, j] != WORDS.start else WORDS.start + 1
        after_video, after_text = outputs(changed)
        assert torch.equal(before_video, after_video), j
        assert torch.equal(before_text[:, :j], after_text[:, :j]), j
        assert not torch.allclose(before_text[:, j], after_text[:, j]), j


def test_the_prefix_is_seen_by_all():
    model, batch = tiny_model().double(), random_batch(1, lengths=[9])
    video = model.encode_video(batch)
    mask = prefix_mask(batch.text_mask_BL, torch.tensor([5]), video.valid_BG)
    changed = batch.tokens_BL.clone()
    changed[0, 3] = WORDS.start if changed[0, 3] != WORDS.start else WORDS.start + 1
    a, b = (
        fuse(model, video.tokens_BGd, model.encode_text(t, batch.text_mask_BL).tokens_BLd, mask)
        for t in (batch.tokens_BL, changed)
    )
    assert not torch.isclose(a[0], b[0]).all(dim=-1).any()
    assert not torch.isclose(a[1][:, :9], b[1][:, :9]).all(dim=-1).any()


def test_plm_supervises_every_token_after_the_prefix():
    model, batch = tiny_model(), random_batch(4, lengths=[3, 6, 12, 9])
    video, text = model.encode_video(batch), model.encode_text(batch.tokens_BL, batch.text_mask_BL)
    numbers = drawn(Stream.PLM, batch.position_B, 1)
    loss = loss_of_plm(model, batch, video, text, numbers)
    prefix = draw_prefix(batch.text_mask_BL, numbers[:, 0])
    losses = []
    for b in range(4):
        mask = prefix_mask(batch.text_mask_BL[b : b + 1], prefix[b : b + 1], video.valid_BG[b : b + 1])
        _, fused = fuse(model, video.tokens_BGd[b : b + 1], text.tokens_BLd[b : b + 1], mask)
        for i in range(int(prefix[b]) - 1, int(batch.text_mask_BL[b].sum()) - 1):
            target = model.lm_head.targets(batch.tokens_BL[b, i + 1])
            losses.append(F.cross_entropy(model.language_logits(fused[0, i], model.language_table()), target))
    torch.testing.assert_close(loss, torch.stack(losses).mean())


def test_captions_without_words_give_a_loss_of_zero_in_the_graph():
    model, batch = tiny_model(), random_batch(3, lengths=[2, 2, 2])
    loss = loss_of_mlm(model, batch)
    loss.backward()
    assert loss == 0
    assert all(torch.isfinite(p.grad).all() for p in model.parameters() if p.grad is not None)


def test_full_and_used_vocabulary_agree_on_their_common_part():
    used, full = tiny_model(), tiny_model(lm_vocab="full")
    shared = {k: v for k, v in used.state_dict().items() if k != "lm_head.bias"}
    full.load_state_dict({**full.state_dict(), **shared})
    rows = torch.randn(5, 32)
    logits = used.language_logits(rows, used.language_table())
    torch.testing.assert_close(logits, full.language_logits(rows, full.language_table())[:, used.lm_head.used_ids])
    ids = torch.tensor([320, 49406, 7, 49407, 359])
    assert used.lm_head.targets(ids).tolist() == [0, 40, -1, 41, 39]
    assert torch.equal(full.lm_head.targets(ids), ids)


def test_words_outside_the_used_vocabulary_do_not_count():
    model = tiny_model()
    rows, ids = torch.randn(1, 3, 32), torch.tensor([[320, 5, 321]])
    valid = torch.ones(1, 3, dtype=torch.bool)
    table = model.language_table()
    inside = language_loss(model, table, rows[:, ::2], ids[:, ::2], valid[:, ::2])
    torch.testing.assert_close(language_loss(model, table, rows, ids, valid), inside)


def test_bidirectional_mask_hides_padding_and_missing_trajectories_alone():
    mask = bidirectional_mask(torch.tensor([[True, True, False]]), torch.tensor([[True, False]]))
    assert mask.shape == (1, 5, 5)
    assert mask[0].tolist() == [[True, False, True, True, False]] * 5


def test_two_streams_equal_a_pass_for_every_position():
    """The oracle fuses once a position: the text so far, blanks after it, read at the first blank."""
    model, batch = tiny_model().double(), random_batch(3, lengths=[12, 7, 2])
    video, text = model.encode_video(batch), model.encode_text(batch.tokens_BL, batch.text_mask_BL)
    L, G = 12, video.valid_BG.shape[1]
    wanted = torch.arange(L).expand(3, -1)
    rows = at_blanks(model, batch, video, text, wanted)
    keys = torch.cat([video.valid_BG, torch.ones(3, L, dtype=torch.bool)], dim=1)
    mask = torch.ones(G + L, G + L, dtype=torch.bool).tril()
    mask[:G, :G] = True
    mask[G:, :G] = True
    for i in range(L - 1):
        known = torch.arange(L) <= i
        tokens = text.tokens_BLd * known[:, None]
        _, fused = fuse(model, video.tokens_BGd, tokens, mask & keys[:, None])
        inside = batch.text_mask_BL[:, i + 1]
        torch.testing.assert_close(rows[inside, i + 1], fused[inside, i + 1], atol=1e-12, rtol=1e-10)


def test_two_streams_supervise_what_one_pass_does():
    model, batch = tiny_model(), random_batch(4, lengths=[3, 6, 12, 9])
    video, text = model.encode_video(batch), model.encode_text(batch.tokens_BL, batch.text_mask_BL)
    numbers = drawn(Stream.PLM, batch.position_B, 1)
    loss = loss_of_plm(model, batch, video, text, numbers, form="two_stream")
    prefix = draw_prefix(batch.text_mask_BL, numbers[:, 0])
    wanted = torch.arange(12).expand(4, -1)
    rows, table = (
        at_blanks(model, batch, video, text, wanted),
        model.language_table(),
    )
    losses = [
        F.cross_entropy(model.language_logits(rows[b, j], table), model.lm_head.targets(batch.tokens_BL[b, j]))
        for b in range(4)
        for j in range(int(prefix[b]), int(batch.text_mask_BL[b].sum()))
    ]
    torch.testing.assert_close(loss, torch.stack(losses).mean())
