"""Video-text matching and its negatives."""

import dataclasses

import pytest
import torch
from factories import fuse, random_batch, tiny_model
from torch.nn import functional as F

from stoa.objectives.all_clips import gather_clips
from stoa.objectives.config import ObjectivesConfig
from stoa.objectives.masks import bidirectional_mask
from stoa.objectives.pairs import match_pass
from stoa.objectives.random import Stream, uniform
from stoa.objectives.total import TrainingObjective
from stoa.objectives.vtc import similarities
from stoa.objectives.vtm import draw_negatives, draw_pairs, draws_of, vtm_loss


def drawn_uniformly(rows, columns):
    return uniform(0, 0, torch.arange(rows), {Stream.VTM_TEXT: columns})[Stream.VTM_TEXT]


def test_negatives_follow_the_softmax():
    torch.manual_seed(0)
    scores = torch.randn(5).expand(4000, 5)
    same = torch.zeros(4000, 5, dtype=torch.bool)
    same[:, 2] = True
    drawn, usable = draw_negatives(scores, same, drawn_uniformly(4000, 5))
    assert usable.all()
    share = torch.bincount(drawn, minlength=5) / 4000
    expected = scores[0].masked_fill(same[0], -torch.inf).softmax(0)
    assert share[2] == 0
    torch.testing.assert_close(share, expected, atol=0.03, rtol=0)


def test_far_apart_scores_still_give_a_negative():
    """softmax without the diagonal underflows in fp32 here."""
    scores = torch.tensor([[300.0, -300.0, -301.0]])
    same = torch.tensor([[True, False, False]])
    drawn, usable = draw_negatives(scores, same, drawn_uniformly(1, 3))
    assert usable.item()
    assert drawn.item() in (1, 2)


def run(batch, model=None):
    model = model or tiny_model()
    video, text = model.encode_video(batch), model.encode_text(batch.tokens_BL, batch.text_mask_BL)
    scores = similarities(
        video.pooled_Bd, text.pooled_Bd, model.clip.logit_scale, batch.clip_keys_B, batch.caption_keys_B
    )
    draws = uniform(1, 2, batch.position_B, draws_of(batch))
    pairs = draw_pairs(batch, video, gather_clips(video), text, scores, draws)
    return model, video, text, scores, vtm_loss(model, model.fused(match_pass(model, pairs.asked)), pairs)


def test_the_loss_is_the_mean_over_three_pairs_a_clip():
    batch = random_batch(5)
    model, video, text, scores, (loss, accuracy, _) = run(batch)
    draws = uniform(1, 2, batch.position_B, {Stream.VTM_VIDEO: 5, Stream.VTM_TEXT: 5})
    hard_v, _ = draw_negatives(scores.text_to_video_BA, scores.same_BA, draws[Stream.VTM_VIDEO])
    hard_t, _ = draw_negatives(scores.video_to_text_BA, scores.same_BA, draws[Stream.VTM_TEXT])
    losses, right = [], []
    for i in range(5):
        for v, t, target in ((i, i, 1), (int(hard_v[i]), i, 0), (i, int(hard_t[i]), 0)):
            assert target == int(v == t)
            mask = batch.text_mask_BL[t : t + 1]
            seen = bidirectional_mask(mask, video.valid_BG[v : v + 1])
            fused = fuse(model, video.tokens_BGd[v : v + 1], text.tokens_BLd[t : t + 1], seen)
            pooled, end = model.config.num_frames, int(mask.sum()) - 1
            logits = model.match_head(torch.cat([fused[0][:, pooled], fused[1][:, end]], dim=1))
            losses.append(F.cross_entropy(logits, torch.tensor([target])))
            right.append(float(logits.argmax() == target))
    torch.testing.assert_close(loss, torch.stack(losses).mean())
    assert accuracy.item() == pytest.approx(sum(right) / 15)


def test_a_row_without_negatives_is_dropped():
    """All clips are the same clip: only the three positives count."""
    batch = dataclasses.replace(random_batch(3), clip_keys_B=torch.zeros(3, dtype=torch.int64))
    model, video, text, _, (loss, *_) = run(batch)
    mask = bidirectional_mask(batch.text_mask_BL, video.valid_BG)
    rows = model.fused(model.pair_pass(video.tokens_BGd, text.tokens_BLd, mask, batch.text_mask_BL))
    logits = model.match_head(rows.flatten(1))
    torch.testing.assert_close(loss, F.cross_entropy(logits, torch.ones(3).long()))


def test_one_clip_alone_trains():
    _, _, _, _, (loss, *_) = run(random_batch(1))
    loss.backward()
    assert torch.isfinite(loss)


def test_padding_changes_nothing():
    """What stands behind the end token is never seen."""
    batch = random_batch(4, lengths=[5, 7, 12, 3])
    padding = torch.where(batch.text_mask_BL, batch.tokens_BL, torch.full_like(batch.tokens_BL, 321))
    model = tiny_model()
    a = run(batch, model)[-1][0]
    b = run(dataclasses.replace(batch, tokens_BL=padding), model)[-1][0]
    assert torch.equal(a, b)


def test_the_share_of_hard_negatives_grows(monkeypatch):
    drawn_from = []

    def record(scores_BA, same_BA, uniform_BA):
        drawn_from.append(scores_BA)
        return draw_negatives(scores_BA, same_BA, uniform_BA)

    monkeypatch.setattr("stoa.objectives.vtm.draw_negatives", record)
    none = dict.fromkeys(("vtc", "mlm", "plm", "ota", "asp"), 0.0)
    config = ObjectivesConfig(**none, vtm_hard_share=0.8, vtm_ramp_steps=4)
    objective = TrainingObjective(tiny_model(), config, seed=0).eval()
    batch = random_batch(40)
    *_, scores, _ = run(batch, objective.model)
    for step, share in ((0, 0.0), (2, 0.4), (4, 0.8), (9, 0.8)):
        drawn_from.clear()
        objective(batch, step)
        hard = []
        for found, whole in zip(drawn_from, (scores.text_to_video_BA, scores.video_to_text_BA), strict=True):
            is_hard_B = found.abs().sum(dim=1) > 0
            torch.testing.assert_close(found, whole * is_hard_B[:, None])
            hard += is_hard_B.tolist()
        assert abs(sum(hard) / len(hard) - share) < 0.15
        assert share or not any(hard)
    paper = TrainingObjective(objective.model, ObjectivesConfig(**none), seed=0)
    drawn_from.clear()
    paper(batch, 0)
    torch.testing.assert_close(drawn_from[0], scores.text_to_video_BA)
