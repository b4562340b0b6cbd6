"""A fresh model sees time: to learn what moves, it has to tell a clip from the same clip played backwards."""

from dataclasses import replace

import torch
from factories import random_batch, tiny_model

from stoa.batch import VideoTextBatch
from stoa.models.config import ObjectConfig
from stoa.objectives.masks import bidirectional_mask


def still_and_known(batch: VideoTextBatch) -> VideoTextBatch:
    """One picture throughout; a box of the same label in every slot."""
    return replace(
        batch,
        frames_BTCHW=batch.frames_BTCHW[:1, :1].expand_as(batch.frames_BTCHW).contiguous(),
        labels_BTK=torch.zeros_like(batch.labels_BTK),
    )


def share_of_order(x: torch.Tensor, backwards: torch.Tensor) -> float:
    """How far outputs are from those of the clip played backwards, next to those of another clip."""
    return ((x - backwards).norm() / (x - x.roll(1, 0)).norm()).item()


@torch.no_grad()
def test_the_fusion_encoder_sees_the_order_of_frames():
    model, batch = tiny_model(num_frames=4), random_batch(16, frames=4)
    video, text = model.encode_video(batch), model.encode_text(batch.tokens_BL[:1], batch.text_mask_BL[:1])
    text_BLd, text_mask_BL = text.tokens_BLd.expand(16, -1, -1), batch.text_mask_BL[:1].expand(16, -1)
    mask = bidirectional_mask(text_mask_BL, torch.ones_like(video.valid_BG))
    frames = model.fusion.slot("frames")
    others = video.tokens_BGd[:1].expand_as(video.tokens_BGd)
    forwards, backwards = others.clone(), others.clone()
    forwards[:, frames] = video.tokens_BGd[:, frames]
    backwards[:, frames] = forwards[:, frames].flip(1)
    seen, turned = (
        model.fused(model.pair_pass(tokens, text_BLd, mask, text_mask_BL)) for tokens in (forwards, backwards)
    )
    assert share_of_order(seen, turned) > 0.1


@torch.no_grad()
def test_a_trajectory_sees_the_order_of_its_boxes():
    model, batch = tiny_model(num_frames=4), still_and_known(random_batch(16, frames=4))
    turned = replace(batch, boxes_BTK4=batch.boxes_BTK4.flip(1))
    tokens, back = (model.group(model.encode_video(clips), "objects")[:, 0] for clips in (batch, turned))
    assert share_of_order(tokens, back) > 0.1


@torch.no_grad()
def test_an_action_token_sees_the_order_of_frames():
    model, batch = tiny_model(num_frames=4, objects=ObjectConfig(num_trajectories=0)), random_batch(16, frames=4)
    turned = replace(batch, frames_BTCHW=batch.frames_BTCHW.flip(1))
    tokens, back = (model.group(model.encode_video(clips), "actions").flatten(1) for clips in (batch, turned))
    assert share_of_order(tokens, back) > 0.1
