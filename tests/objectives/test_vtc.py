"""Video-text contrast."""

import math

import pytest
import torch
from open_clip.loss import ClipLoss
from torch.nn import functional as F

from stoa.objectives.vtc import MAX_LOGIT_SCALE, similarities, temperature, vtc_loss


def inputs(size: int = 6, width: int = 16):
    torch.manual_seed(0)
    video, text = torch.randn(2, size, width, dtype=torch.float64, requires_grad=True).unbind(0)
    return video, text, torch.tensor([2.0], dtype=torch.float64), torch.arange(size), torch.arange(size) + 100


def test_it_equals_open_clips_loss():
    video, text, scale, clips, captions = inputs()
    loss = vtc_loss(similarities(video, text, scale, clips, captions))
    expected = ClipLoss()(F.normalize(video, dim=-1), F.normalize(text, dim=-1), scale.exp())
    torch.testing.assert_close(loss, expected)


@pytest.mark.parametrize("shared", ["clip", "caption"])
def test_repeated_clips_and_captions_are_no_negatives(shared):
    video, text, scale, clips, captions = inputs()
    keys = clips if shared == "clip" else captions
    keys[4] = keys[1]
    loss = vtc_loss(similarities(video, text, scale, clips, captions))
    logits = (scale.exp() * F.normalize(video, dim=-1) @ F.normalize(text, dim=-1).T).detach()
    expected = 0.0
    for x in (logits, logits.T):
        for i in range(6):
            columns = [j for j in range(6) if j == i or {i, j} != {1, 4}]
            expected -= (x[i, i] - torch.logsumexp(x[i, columns], 0)) / 12
    torch.testing.assert_close(loss, expected)


def test_a_batch_of_one_clip_repeated_has_loss_zero_and_finite_gradient():
    torch.manual_seed(0)
    video = torch.randn(3, 8, requires_grad=True)
    loss = vtc_loss(similarities(video, torch.randn(3, 8), torch.tensor([2.0]), torch.zeros(3).long(), torch.arange(3)))
    loss.backward()
    assert loss == 0
    assert (video.grad == 0).all()


@pytest.mark.parametrize("start", [2.0, 6.0])
def test_the_temperature_is_clamped_but_keeps_its_gradient(start):
    scale = torch.tensor([start], requires_grad=True)
    value = temperature(scale)
    value.backward()
    torch.testing.assert_close(value.item(), math.exp(min(start, MAX_LOGIT_SCALE)), rtol=1e-5, atol=0)
    assert scale.grad.item() == pytest.approx(value.item(), rel=1e-5)
    assert scale.item() == start


def test_half_precision_features_are_scored_in_fp32():
    video, text, scale, clips, captions = inputs(width=64)
    half = [x.detach().half() * 60 for x in (video, text)]  # squared norms overflow fp16
    scores = similarities(*half, scale.half(), clips, captions)
    assert scores.video_to_text_BA.dtype == torch.float32
    expected = similarities(*(x.double() for x in half), scale, clips, captions)
    torch.testing.assert_close(scores.video_to_text_BA.double(), expected.video_to_text_BA, atol=1e-4, rtol=1e-4)
