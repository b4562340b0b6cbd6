"""The fusion encoder computes what is asked of it and nothing else."""

import pytest
import torch
from factories import fuse, random_batch, tiny_model
from torch.utils.flop_counter import FlopCounterMode

from stoa.models.causal_texts import CausalPass
from stoa.models.config import FusionConfig
from stoa.objectives.masks import bidirectional_mask, prefix_mask


def encoded(model):
    batch = random_batch(3)
    video, text = model.encode_video(batch), model.encode_text(batch.tokens_BL, batch.text_mask_BL)
    mask_BSS = bidirectional_mask(batch.text_mask_BL, video.valid_BG)
    return batch, video.tokens_BGd.detach(), text.tokens_BLd.detach(), mask_BSS


@pytest.mark.parametrize("layers", [1, 2])
@pytest.mark.parametrize("one_mask_for_all", [False, True])
def test_wanted_rows_are_those_of_the_whole_sequence(layers, one_mask_for_all):
    model = tiny_model(fusion=FusionConfig(layers=layers)).double()
    _, video_BGd, text_BLd, mask_BSS = encoded(model)
    mask_BSS = mask_BSS[:1] if one_mask_for_all else mask_BSS
    S = mask_BSS.shape[1]
    rows_BQ = torch.tensor([[0, 3, S - 1], [S - 1, 0, 1], [2, 4, 5]])
    weight = torch.randn(3, 3, 32, dtype=torch.float64)
    gradients = []
    for rows in (None, rows_BQ):
        inputs = [x.clone().requires_grad_() for x in (video_BGd, text_BLd)]
        out = model.fusion(*inputs, mask_BSS, rows)
        if rows is None:
            out = out[torch.arange(3)[:, None], rows_BQ]
            expected = out
        torch.testing.assert_close(out, expected, rtol=1e-12, atol=1e-12)
        parameters = [p for p in model.fusion.parameters() if p.requires_grad]
        gradients.append(torch.autograd.grad((out * weight).sum(), [*inputs, *parameters]))
    for whole, wanted in zip(*gradients, strict=True):
        torch.testing.assert_close(wanted, whole, rtol=1e-10, atol=1e-12)


def test_a_pair_is_the_pooled_slot_and_the_end_token():
    model = tiny_model().double()
    batch, video_BGd, text_BLd, mask_BSS = encoded(model)
    at_video, at_text = fuse(model, video_BGd, text_BLd, mask_BSS)
    ends = batch.text_mask_BL.sum(dim=1) - 1
    expected = torch.cat([at_video[:, model.config.num_frames], at_text[torch.arange(3), ends]], dim=1)
    pair = model.fused(model.pair_pass(video_BGd, text_BLd, mask_BSS, batch.text_mask_BL)).flatten(1)
    torch.testing.assert_close(pair, expected, rtol=1e-12, atol=1e-12)


@torch.no_grad()
def test_the_last_block_computes_the_wanted_rows_alone():
    """Of one block without the wanted rows there remain keys and values, a sixth of its products, and attention."""
    model = tiny_model(fusion=FusionConfig(layers=1))
    batch, video_BGd, text_BLd, mask_BSS = encoded(model)
    flops = []
    for run in (
        lambda: model.fusion(video_BGd, text_BLd, mask_BSS),
        lambda: model.fused(model.pair_pass(video_BGd, text_BLd, mask_BSS, batch.text_mask_BL)),
    ):
        with FlopCounterMode(display=False) as counter:
            run()
        flops.append(counter.get_total_flops())
    assert flops[1] < 0.4 * flops[0]


@pytest.mark.parametrize("layers", [1, 2])
@pytest.mark.parametrize("recomputing", [False, True])
@pytest.mark.parametrize(("clips", "texts"), [(1, 1), (3, 5), (3, 2)])
def test_a_clip_that_is_computed_once_gives_each_text_what_one_of_its_own_does(layers, recomputing, clips, texts):
    """Rows and gradients, of whole sequences in which the video side sees the start token and no more of the text."""
    model = tiny_model(fusion=FusionConfig(layers=layers)).double()
    model.fusion.recomputing = recomputing
    batch = random_batch(max(clips, texts), lengths=[3, 12, 7, 5, 9][: max(clips, texts)])
    video, text = model.encode_video(batch), model.encode_text(batch.tokens_BL, batch.text_mask_BL)
    mask_NL, clip_N = batch.text_mask_BL[:texts], torch.tensor([2, 0, 2, 2, 1])[:texts] % clips
    found = []
    for once in (True, False):
        video_CGd = video.tokens_BGd[:clips].detach().requires_grad_()
        start_d = text.tokens_BLd[0, :1].detach().requires_grad_()
        text_NLd = torch.cat([start_d.expand(texts, 1, -1), text.tokens_BLd[:texts, 1:].detach()], dim=1)
        if once:
            rows = model.fused(CausalPass(video_CGd, video.valid_BG[:clips], clip_N, text_NLd, mask_NL))
        else:
            first_N = torch.ones_like(clip_N)
            mask_NSS = prefix_mask(mask_NL, first_N, video.valid_BG[clip_N])
            outs = fuse(model, video_CGd[clip_N], text_NLd, mask_NSS)
            ends = outs[1][torch.arange(texts), mask_NL.sum(dim=1) - 1]
            pooled = outs[0][:, model.config.num_frames]
            rows = torch.cat([pooled[:, None], ends[:, None], outs[1][:, :-1]], dim=1)
        seen = torch.cat([torch.ones_like(mask_NL[:, :2]), mask_NL[:, :-1]], dim=1)
        rows = rows.where(seen[..., None], 0)
        weight = torch.linspace(-1, 1, rows.numel(), dtype=rows.dtype).view_as(rows)
        trained = [p for p in model.fusion.parameters() if p.requires_grad]
        found.append((rows, torch.autograd.grad((rows * weight).sum(), [video_CGd, start_d, *trained])))
    (rows, gradients), (expected, expected_gradients) = found
    torch.testing.assert_close(rows, expected, rtol=1e-12, atol=1e-12)
    for one, other in zip(gradients, expected_gradients, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-11)


def test_passes_together_are_passes_alone():
    """Of several widths, and one whose texts have places of their own."""
    model = tiny_model().double()
    batch, video_BGd, text_BLd, mask_BSS = encoded(model)
    G, L = video_BGd.shape[1], text_BLd.shape[1]
    twice = torch.cat([text_BLd, text_BLd], dim=1)
    mask_of_two = torch.ones(1, G + 2 * L, G + 2 * L, dtype=torch.bool).expand(3, -1, -1)
    wanted = torch.arange(5).expand(3, -1)
    passes = [
        model.pair_pass(video_BGd, text_BLd, mask_BSS, batch.text_mask_BL),
        model.text_pass(video_BGd, twice, mask_of_two, wanted, torch.arange(L).repeat(2)),
        CausalPass(video_BGd, mask_BSS[:, 0, :G], torch.tensor([1, 1, 0]), text_BLd, batch.text_mask_BL),
        model.text_pass(video_BGd.flip(0), text_BLd, mask_BSS, wanted),
        model.text_pass(video_BGd, text_BLd[:, :-3], mask_BSS[:, :-3, :-3], wanted),
    ]
    together = model.fusion.fuse(passes)
    for one, rows in zip(passes, together, strict=True):
        torch.testing.assert_close(rows, model.fused(one), rtol=1e-12, atol=1e-12)
    assert model.fusion.fuse([]) == []
