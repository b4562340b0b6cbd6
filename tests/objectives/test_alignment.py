"""OTA and ASP against plain loops with SciPy, and clips that lack everything."""

import dataclasses
import itertools

import numpy as np
import pytest
import torch
from factories import random_batch, tiny_model
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import linear_sum_assignment
from torch.nn import functional as F

from stoa.models.config import ActionConfig, ObjectConfig
from stoa.objectives.alignment import alignment_loss, asp_loss, ota_loss
from stoa.objectives.all_clips import gather_clips
from stoa.objectives.contrast import AllRows, Repeats, rows_among_words, words_among_clips
from stoa.objectives.matching import (
    Columns,
    Match,
    at_columns,
    judge_match,
    majority_class,
    match_rows,
    null_positions,
    word_columns,
    word_keys,
)


def run_ota(model, batch, form="mse", null_token="end"):
    video, text = model.encode_video(batch), model.encode_text(batch.tokens_BL, batch.text_mask_BL)
    return video, text, *ota_loss(model, batch, video, text, gather_clips(video), form=form, null_token=null_token)


def run_asp(model, batch, form="mse", pad_null=False):
    video, text = model.encode_video(batch), model.encode_text(batch.tokens_BL, batch.text_mask_BL)
    all_clips = gather_clips(video)
    return video, text, *asp_loss(model, batch, video, text, all_clips, form=form, null_token="end", pad_null=pad_null)


def pairs_by_scipy(rows, text, words, null):
    """(row, text position) of every pair of one clip, from probabilities computed one by one."""
    columns = [*words, null]
    if not len(rows):
        return []
    probability = np.zeros((len(rows), len(columns)))
    for i, row in enumerate(rows):
        cosine = torch.stack([F.cosine_similarity(row, text[j], dim=0) for j in columns])
        probability[i] = (cosine / 0.1).softmax(dim=0).detach().numpy()
    return [(i, columns[j]) for i, j in zip(*linear_sum_assignment(-probability), strict=True)]


def distance(form, row, text, batch, b, position, columns):
    target = text.tokens_BLd[b, position].detach()
    if form == "mse":
        return (row - target).square().mean()
    if form == "cosine":
        return 1 - F.cosine_similarity(row, target, dim=0)
    others = list(contrasted(batch, b, position, columns))
    return contrast_by_loop(row, target, [text.tokens_BLd[c, j].detach() for c, j in others])


def pieces(batch, b, end):
    """Token ids of the noun that ends there, read backwards."""
    start = end
    while batch.noun_mask_BL[b, start - 1] and not batch.word_end_BL[b, start - 1]:
        start -= 1
    return batch.tokens_BL[b, start : end + 1].tolist()


def contrasted(batch, b, position, columns):
    """(clip, text position) of all that a row matched to ``position`` of clip b is told from."""
    *words, null = columns
    if position == null:
        yield from ((b, j) for j in words)
        return
    yield b, null
    for c in range(len(batch)):
        repeated = any(keys[c] == keys[b] for keys in (batch.clip_keys_B, batch.caption_keys_B))
        for j in (batch.noun_mask_BL[c] & batch.word_end_BL[c]).nonzero().squeeze(1).tolist():
            if (c == b or not repeated) and pieces(batch, c, j) != pieces(batch, b, position):
                yield c, j


def contrast_by_loop(row, target, others):
    cosine = torch.stack([F.cosine_similarity(row, word, dim=0) for word in (target, *others)])
    return F.cross_entropy(cosine / 0.1, torch.tensor(0))


def words_by_loop(rows_BNd, video, text, batch):
    """Each noun among the clips that neither repeat its own nor name it."""
    ends_BL, losses = batch.noun_mask_BL & batch.word_end_BL, []
    valid_BN = video.trajectory_labels_BN >= 0
    named = [[pieces(batch, c, int(j)) for j in ends_BL[c].nonzero()] for c in range(len(batch))]
    for b, j in ends_BL.nonzero().tolist():
        if not valid_BN[b].any():
            continue
        word, scores = text.tokens_BLd[b, j].detach(), []
        for c in [b, *(c for c in range(len(batch)) if c != b)]:
            repeated = any(keys[c] == keys[b] for keys in (batch.clip_keys_B, batch.caption_keys_B))
            rows = rows_BNd[c, valid_BN[c]]
            if c == b or (len(rows) and not repeated and pieces(batch, b, j) not in named[c]):
                scores.append(sum((F.cosine_similarity(row, word, dim=0) / 0.1).exp() for row in rows).log())
        losses.append(F.cross_entropy(torch.stack(scores), torch.tensor(0)))
    return torch.stack(losses).mean()


def model_with(word_head):
    """Maps to nouns and verbs that have learned something, if there are any."""
    objects = ObjectConfig(num_trajectories=4, max_boxes=3, word_head=word_head)
    model = tiny_model(objects=objects, actions=ActionConfig(num_tokens=3, word_head=word_head)).double()
    for parameter in (*model.word_head.parameters(), *model.verb_head.parameters()):
        torch.nn.init.normal_(parameter, std=0.2)
    return model


@pytest.mark.parametrize("word_head", [False, True])
@pytest.mark.parametrize("form", ["mse", "cosine", "nce", "nce_both"])
@pytest.mark.parametrize("null_token", ["end", "start"])
def test_ota_equals_a_loop_with_scipy(form, null_token, word_head):
    model, batch = model_with(word_head), random_batch(6, seed=4)
    batch.tokens_BL[batch.noun_mask_BL] %= 4  # nouns that come again
    batch.word_end_BL[:, ::3] &= ~batch.noun_mask_BL[:, ::3]  # and nouns of several pieces
    batch.clip_keys_B[3], batch.caption_keys_B[4] = batch.clip_keys_B[0], batch.caption_keys_B[5]
    batch.noun_mask_BL[1] = False
    batch.labels_BTK[2] = -1
    video, text, loss, metrics = run_ota(model, batch, form, null_token)
    rows_BNd = model.group(video, "objects")
    if word_head:
        rows_BNd = rows_BNd @ model.word_head.weight.T + model.word_head.bias
    distances, targets, nulls = [], [], 0
    for b in range(6):
        rows = rows_BNd[b, video.trajectory_labels_BN[b] >= 0]
        words = (batch.noun_mask_BL[b] & batch.word_end_BL[b]).nonzero().squeeze(1).tolist()
        null = int(batch.text_mask_BL[b].sum()) - 1 if null_token == "end" else 0
        for i, position in pairs_by_scipy(rows, text.tokens_BLd[b], words, null):
            distances.append(distance(form, rows[i], text, batch, b, position, [*words, null]))
            targets.append((rows[i], text.tokens_BLd[b, position]))
            nulls += position == null
    expected = torch.stack(distances).mean()
    if form == "nce_both":
        expected = expected + words_by_loop(rows_BNd, video, text, batch)
    torch.testing.assert_close(loss, expected)
    own, target = (torch.stack(x).detach() for x in zip(*targets, strict=True))
    variance = target.var(dim=0, unbiased=False).mean()
    assert metrics["ota_explained"].item() == pytest.approx(1 - float((own - target).square().mean() / variance))
    assert metrics["ota_match_rate"].item() == pytest.approx(
        len(targets) / int((video.trajectory_labels_BN >= 0).sum())
    )
    assert metrics["ota_null_share"].item() == pytest.approx(nulls / len(targets))


@settings(max_examples=100)
@given(st.integers(0, 2**31 - 1), st.integers(2, 12))
def test_words_have_one_key_if_they_have_the_same_pieces(seed, length):
    generator = torch.Generator().manual_seed(seed)
    tokens, piece, end = (torch.randint(0, n, (3, length), generator=generator) for n in (2, 2, 2))
    piece, end = piece.bool(), end.bool()
    found = word_keys(tokens, piece, end)
    spelled = {}
    for b, j in itertools.product(range(3), range(length)):
        if not (piece[b, j] and end[b, j]):
            assert found[b, j] == 0
            continue
        start = j
        while start and piece[b, start - 1] and not end[b, start - 1]:
            start -= 1
        spelled[b, j] = tokens[b, start : j + 1].tolist()
    for one, other in itertools.combinations(spelled, 2):
        assert (found[one] == found[other]) == (spelled[one] == spelled[other])


SHAPES = torch.eye(12, 16)
"""Words (and tokens of trajectories) of twelve classes; the null is another vector."""


def clips_of_pairs(rows_of_class):
    """Every pair of twelve classes is a clip: its two nouns, two trajectories and the loss of their match."""
    pairs = torch.tensor(list(itertools.combinations(range(12), 2)))
    null = torch.eye(16)[15].expand(len(pairs), 1, 16)
    words, columns = torch.cat([SHAPES[pairs], null], dim=1), Columns(torch.arange(3).expand(len(pairs), 3), None)
    columns = columns._replace(count_B=torch.full((len(pairs),), 3))
    rows = rows_of_class[pairs]
    match = match_rows(rows, torch.ones(len(pairs), 2, dtype=torch.bool), words, columns)
    keys = torch.cat([pairs + 1, torch.zeros(len(pairs), 1, dtype=torch.int64)], dim=1)
    alone = torch.ones(len(pairs), len(pairs), dtype=torch.bool)  # every clip a repeat of the others: its words alone
    whole, within = (
        rows_among_words(rows, words, match, columns, Repeats(keys, same)).mean()
        for same in (torch.eye(len(pairs), dtype=torch.bool), alone)
    )
    return match.column_BR, whole, within


def test_a_match_that_is_always_the_other_noun_is_no_optimum():
    """A trajectory that is like every noun but its own agrees with the other noun of each of its clips. Over the words
    of the clip that is as good as the truth, over those of all clips it is not."""
    true_columns, truth, truth_within = clips_of_pairs(SHAPES)
    other_columns, other, other_within = clips_of_pairs(SHAPES.sum(dim=0) - 2 * SHAPES)
    assert (true_columns == torch.tensor([0, 1])).all()
    assert (other_columns == torch.tensor([1, 0])).all()
    assert truth < 0.01
    assert truth_within < 0.01
    assert other_within < 0.1
    assert other > 2  # one of eleven nouns to which it is as close


def test_nouns_that_are_all_the_same_are_no_negatives():
    """What is left to tell a row with one from is the null of its clip, at a cosine of 0 here, where the noun has 1."""
    words_BCd = torch.eye(2)[torch.tensor([[0, 0, 1], [0, 0, 1]])]
    columns = Columns(torch.arange(3).expand(2, 3), torch.tensor([3, 3]))
    match = Match(torch.tensor([[0, 1], [1, -1]]), torch.ones(2, 2, dtype=torch.bool))
    repeats = Repeats(torch.tensor([[5, 5, 0], [5, 5, 0]]), torch.eye(2, dtype=torch.bool))
    rows_BRd = words_BCd[:, :2].clone().requires_grad_()
    loss, _ = alignment_loss(
        rows_BRd, words_BCd, match, columns, "nce_both", repeats, AllRows(rows_BRd, match.row_valid_BR)
    )
    torch.testing.assert_close(loss, torch.tensor(-10.0).exp().log1p())
    loss.backward()
    assert rows_BRd.grad.isfinite().all()
    assert not rows_BRd.grad[1, 1].any()  # not matched


def bags(rows_BRd, words_BCd, keys_BC, valid_BR=None, same_BA=None):
    """Losses of all words of clips that have nothing but words, and a null."""
    B, C = keys_BC.shape
    valid_BR = torch.ones(rows_BRd.shape[:2], dtype=torch.bool) if valid_BR is None else valid_BR
    same_BA = torch.eye(B, dtype=torch.bool) if same_BA is None else same_BA
    columns = Columns(torch.arange(C + 1).expand(B, C + 1), torch.full((B,), C + 1))
    words = torch.cat([words_BCd, torch.zeros_like(words_BCd[:, :1])], dim=1)
    repeats = Repeats(torch.cat([keys_BC, torch.zeros_like(keys_BC[:, :1])], dim=1), same_BA)
    return words_among_clips(AllRows(rows_BRd, valid_BR), words, columns, repeats)


def test_a_wrong_match_is_no_optimum_of_words():
    """The trajectories of each clip, however they are matched, have to hold its nouns and no other clip's."""
    pairs = torch.tensor([[0, 1], [2, 3], [4, 5]])
    swapped = bags(SHAPES[pairs.flip(1)], SHAPES[pairs], pairs + 1).losses_BC[:, :2]
    of_others = bags(SHAPES[pairs.roll(1, dims=0)], SHAPES[pairs], pairs + 1).losses_BC[:, :2]
    assert swapped.max() < 0.01
    assert of_others.min() > 9


def test_a_clip_that_names_the_word_is_no_negative():
    """Neither is one with the same video; and a word has no negative left then."""
    rows, words = SHAPES[torch.tensor([[1], [0]])], SHAPES[torch.tensor([[0], [1]])]
    assert bags(rows, words, torch.tensor([[7], [7]])).losses_BC.abs().max() == 0
    same = torch.ones(2, 2, dtype=torch.bool)
    assert bags(rows, words, torch.tensor([[7], [8]]), same_BA=same).losses_BC.abs().max() == 0
    assert bags(rows, words, torch.tensor([[7], [8]])).losses_BC[:, 0].min() > 9


def test_a_clip_without_rows_neither_counts_nor_tells_apart():
    rows = SHAPES[torch.tensor([[0], [1], [2]])].requires_grad_()
    valid = torch.tensor([[True], [True], [False]])
    losses, counted = bags(rows, SHAPES[torch.tensor([[0], [1], [2]])], torch.tensor([[1], [2], [3]]), valid)
    assert counted.tolist() == [[True, False], [True, False], [False, False]]
    two = bags(rows[:2], SHAPES[torch.tensor([[0], [1]])], torch.tensor([[1], [2]])).losses_BC
    torch.testing.assert_close(losses[:2], two)
    losses.sum().backward()
    assert rows.grad.isfinite().all() and not rows.grad[2].any() and rows.grad[:2].any()


@pytest.mark.parametrize("run", [run_ota, run_asp])
def test_without_words_there_is_nothing_to_contrast(run):
    model, batch = tiny_model(), random_batch(3)
    for mask in (batch.noun_mask_BL, batch.verb_mask_BL, batch.word_end_BL):
        mask[:] = False
    loss = run(model, batch, "nce_both")[2]
    assert loss == 0
    loss.backward()
    assert all(not p.grad.any() for p in model.parameters() if p.grad is not None)
    assert model.clip.visual.conv1.weight.grad is not None


@pytest.mark.parametrize("word_head", [False, True])
@pytest.mark.parametrize("pad_null", [False, True])
def test_asp_equals_a_loop_with_scipy(pad_null, word_head):
    model, batch = model_with(word_head=word_head), random_batch(6, seed=5)
    batch.verb_mask_BL[1] = False
    video, text, loss, _ = run_asp(model, batch, pad_null=pad_null)
    rows_BMd = model.group(video, "actions")
    if word_head:
        rows_BMd = rows_BMd @ model.verb_head.weight.T + model.verb_head.bias
    distances = []
    for b in range(6):
        words = (batch.verb_mask_BL[b] & batch.word_end_BL[b]).nonzero().squeeze(1).tolist()
        null = int(batch.text_mask_BL[b].sum()) - 1
        pairs = dict(pairs_by_scipy(rows_BMd[b], text.tokens_BLd[b], words, null))
        for m in range(3):
            position = pairs.get(m, null if pad_null else None)
            if position is not None:
                distances.append((rows_BMd[b, m] - text.tokens_BLd[b, position]).square().mean())
    torch.testing.assert_close(loss, torch.stack(distances).mean())


def test_a_fresh_map_to_words_changes_nothing_and_learns():
    batch = random_batch(6, seed=4)
    mapped = tiny_model(objects=ObjectConfig(num_trajectories=4, max_boxes=3, word_head=True))
    plain = tiny_model()
    plain.load_state_dict({name: x for name, x in mapped.state_dict().items() if not name.startswith("word_head.")})
    loss, same = run_ota(mapped, batch)[2], run_ota(plain, batch)[2]
    torch.testing.assert_close(loss, same, atol=0, rtol=0)
    loss.backward()
    assert all(p.grad.abs().sum() > 0 for p in mapped.word_head.parameters())


def test_two_nouns_in_a_row_are_two_columns_and_a_noun_of_two_pieces_is_one():
    #        start  hot  dog+ stand  end  pad
    nouns = torch.tensor([[False, True, True, True, False, False]])
    ends = torch.tensor([[False, True, False, True, False, False]])
    columns = word_columns(nouns & ends, torch.tensor([4]))
    assert columns.count_B.tolist() == [3]
    assert columns.position_BC[0, :3].tolist() == [1, 3, 4]
    assert columns.valid_BC[0].tolist() == [True, True, True, False, False]


@pytest.mark.parametrize(("run", "kind"), [(run_ota, "noun"), (run_asp, "verb")])
def test_a_word_of_two_pieces_is_drawn_to_once(run, kind):
    """The first piece of a word changes nothing but by what the last one knows of it."""
    model, batch = tiny_model(), random_batch(3, lengths=[8, 8, 8])
    for mask in (batch.noun_mask_BL, batch.verb_mask_BL, batch.word_end_BL):
        mask[:] = False
    getattr(batch, f"{kind}_mask_BL")[:, 3] = batch.word_end_BL[:, 3] = True
    _, _, loss, metrics = run(model, batch)
    getattr(batch, f"{kind}_mask_BL")[:, 2] = True
    _, _, again, metrics_again = run(model, batch)
    assert loss == again
    assert metrics_again[f"{'ota' if kind == 'noun' else 'asp'}_match_rate"] > 0
    assert all(torch.equal(metrics[name], value) or value.isnan() for name, value in metrics_again.items())


def test_a_caption_full_of_nouns_has_room_for_the_null():
    nouns = torch.ones(1, 7, dtype=torch.bool)
    nouns[0, [0, -1]] = False
    columns = word_columns(nouns, torch.tensor([6]))
    assert columns.position_BC[0].tolist() == [1, 2, 3, 4, 5, 6]
    assert columns.count_B.tolist() == [6]
    columns = word_columns(nouns, torch.tensor([0]))
    assert columns.position_BC[0].tolist() == [1, 2, 3, 4, 5, 0]


def test_the_null_stands_last_and_takes_one_row_alone():
    """Three rows that all resemble the null, one noun: the null gets one, the noun one, one is left."""
    text = torch.eye(4)[None]
    columns = word_columns(torch.tensor([[False, True, False, False]]), torch.tensor([3]))
    rows = torch.eye(4)[[3, 3, 3]][None] + torch.tensor([[[0.0, 0.0, 0, 0], [0, 0.5, 0, 0], [0, 0.1, 0, 0]]])
    match = match_rows(rows, torch.ones(1, 3, dtype=torch.bool), at_columns(text, columns), columns)
    assert match.column_BR.tolist() == [[1, 0, -1]]


def test_ties_go_the_way_of_scipy():
    """All rows alike, all words alike: any match is optimal, and the choice is SciPy's on every machine."""
    text = torch.ones(1, 5, 3)
    columns = word_columns(torch.tensor([[False, True, True, False, False]]), torch.tensor([3]))
    match = match_rows(torch.ones(1, 4, 3), torch.ones(1, 4, dtype=torch.bool), at_columns(text, columns), columns)
    rows, chosen = linear_sum_assignment(np.full((4, 3), -1 / 3))
    expected = [-1] * 4
    for row, column in zip(rows, chosen, strict=True):
        expected[row] = int(column)
    assert match.column_BR[0].tolist() == expected


@pytest.mark.parametrize("form", ["mse", "nce_both"])
@pytest.mark.parametrize("run", [run_ota, run_asp])
def test_the_text_side_gets_no_gradient(run, form):
    model, batch = tiny_model(), random_batch(4)
    _, _, loss, _ = run(model, batch, form)
    loss.backward()
    assert model.clip.text_projection.grad is None
    assert model.clip.visual.conv1.weight.grad.abs().sum() > 0


def test_clips_that_lack_everything_give_zero_in_the_graph():
    batch = random_batch(3)
    for mask in (batch.noun_mask_BL, batch.verb_mask_BL, batch.word_end_BL):
        mask[:] = False
    batch = dataclasses.replace(batch, labels_BTK=torch.full_like(batch.labels_BTK, -1))
    model = tiny_model()
    _, _, loss, metrics = run_ota(model, batch)
    assert loss == 0
    loss.backward()
    assert all(torch.isfinite(p.grad).all() for p in model.parameters() if p.grad is not None)
    assert metrics["ota_explained"].isnan()
    assert metrics["ota_match_accuracy"].isnan()
    # Without verbs an action token is still drawn to the null.
    _, _, loss, metrics = run_asp(model, batch)
    assert loss > 0
    assert metrics["asp_null_share"] == 1
    assert metrics["asp_match_rate"] == pytest.approx(1 / 3)


def test_a_trajectory_is_what_most_of_its_boxes_show():
    batch = random_batch(1, frames=2, max_boxes=3)
    batch = dataclasses.replace(
        batch,
        labels_BTK=torch.tensor([[[5, 5, 2], [5, 2, -1]]]),
        true_labels_BTK=torch.tensor([[[1, 4, -1], [4, -1, 3]]]),
    )
    assert majority_class(torch.tensor([[5, 2, 9, -1]]), batch).tolist() == [[4, -1, -1, -1]]


def test_chance_is_the_mean_over_all_one_to_one_matches():
    """Three trajectories, two nouns of known class, one of unknown class, and the null, by enumeration."""
    columns = Columns(torch.tensor([[1, 2, 3, 5]]), torch.tensor([4]))
    noun_labels = torch.tensor([[-1, 7, 8, -1, -1, -1]])
    row_class = torch.tensor([[7, 7, 8, 9]])
    valid = torch.tensor([[True, True, True, False]])
    judged = right = by_chance = 0.0
    for chosen in itertools.permutations(range(4), 3):
        match = Match(torch.tensor([[*chosen, -1]]), valid)
        truth = judge_match(match, columns, row_class, noun_labels, torch.tensor([True]))
        expected = [(7, 7, 8)[row] == {0: 7, 1: 8}[column] for row, column in enumerate(chosen) if column < 2]
        assert truth.judged.tolist() == [len(expected)]
        assert truth.right.tolist() == [sum(expected)]
        judged, right = judged + len(expected), right + sum(expected)
        by_chance += float(truth.by_chance)
    assert by_chance / judged == pytest.approx(right / judged)


def test_what_cannot_be_explained_or_judged_is_not_a_number():
    """One pair alone, or targets all alike, have no variance; data without the truth have no accuracy."""
    model, batch = tiny_model(), random_batch(1, lengths=[4])
    batch.noun_mask_BL[:] = False
    batch = dataclasses.replace(batch, true_labels_BTK=torch.full_like(batch.true_labels_BTK, -1))
    assert run_ota(model, batch)[-1]["ota_explained"].isnan()
    batch = random_batch(6)
    batch.noun_mask_BL[:] = False
    video, text = model.encode_video(batch), model.encode_text(batch.tokens_BL, batch.text_mask_BL)
    _, metrics = ota_loss(model, batch, video, text, form="mse", null_token="start")  # the start tokens are all alike
    assert metrics["ota_explained"].isnan()
    batch = random_batch(6)
    batch = dataclasses.replace(batch, true_labels_BTK=torch.full_like(batch.true_labels_BTK, -1))
    metrics = run_ota(model, batch)[-1]
    assert metrics["ota_match_accuracy"].isnan()
    assert metrics["ota_match_chance"].isnan()
    assert metrics["ota_explained"].isfinite()


def test_null_positions():
    mask = torch.tensor([[True, True, True, False], [True, True, False, False]])
    assert null_positions(mask, "end").tolist() == [2, 1]
    assert null_positions(mask, "start").tolist() == [0, 0]
