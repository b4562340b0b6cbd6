"""The towers equal open_clip's, taps included."""

import open_clip
import pytest
import torch
from factories import tiny_model
from torch.nn import functional as F

from stoa.models.clip import Clip, build_open_clip, image_side
from stoa.models.config import PRESETS, BackboneConfig
from stoa.models.layers import Block, QuickGelu


def tower_pair(name: str) -> tuple[Clip, open_clip.CLIP]:
    """Ours with the weights of an open_clip model of the same architecture."""
    theirs = build_open_clip(BackboneConfig(name=name)).eval()
    ours = Clip(BackboneConfig(name=name)).eval()
    state = theirs.state_dict()
    state["logit_scale"] = state["logit_scale"].reshape(1)
    ours.load_state_dict(state)
    return ours, theirs


@pytest.mark.parametrize("name", ["stoa-small", "stoa-small-16", "RN50-quickgelu", "ViT-S-32", "ViT-B-32-quickgelu"])
@torch.no_grad()
def test_logits_equal_open_clip(name):
    if name.startswith("RN50"):
        with pytest.raises(ValueError, match="'RN50-quickgelu' is not a plain CLIP with a ViT"):
            Clip(BackboneConfig(name=name))
        return
    torch.manual_seed(0)
    ours, theirs = tower_pair(name)
    side, context = image_side(BackboneConfig(name=name)), ours.context_length
    frames = torch.randint(0, 256, (2, 3, side, side), dtype=torch.uint8)
    tokens = open_clip.tokenize(["a dog runs", "two red circles meet a blue star"], context_length=context)
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in (open_clip.OPENAI_DATASET_MEAN, open_clip.OPENAI_DATASET_STD))
    expected, _ = theirs.get_logits((frames / 255 - mean) / std, tokens)

    image = ours.encode_frames(frames[None])[0][0]
    text = ours.encode_text(ours.token_embedding(tokens))[torch.arange(2), tokens.argmax(dim=1)]
    logits = ours.logit_scale.exp() * F.normalize(image, dim=-1) @ F.normalize(text, dim=-1).T
    torch.testing.assert_close(logits, expected, atol=2e-4, rtol=1e-4)


@torch.no_grad()
def test_taps_are_the_outputs_of_the_named_blocks():
    torch.manual_seed(0)
    ours, theirs = tower_pair("stoa-small")
    images = torch.randn(3, 3, 64, 64)
    expected = theirs.visual.forward_intermediates(images, indices=[0, 2], output_fmt="NLC", intermediates_only=True)
    _, taps = ours.visual(images[None], taps=frozenset({1, 3}))
    assert sorted(taps) == [1, 3]
    for tapped, reference in zip(taps.values(), expected["image_intermediates"], strict=True):
        assert tapped.shape == (3, 65, 96)
        torch.testing.assert_close(tapped[:, 1:], reference, atol=1e-5, rtol=1e-5)


def test_a_copied_block_inherits_the_activation():
    quick = build_open_clip(BackboneConfig(name="ViT-B-32-quickgelu")).transformer.resblocks[0]
    plain = build_open_clip(BackboneConfig(name="ViT-S-32")).transformer.resblocks[0]
    assert isinstance(Block.like(quick).mlp.gelu, QuickGelu)
    assert isinstance(Block.like(plain).mlp.gelu, torch.nn.GELU)
    assert isinstance(Block.like(Block.like(quick)).mlp.gelu, QuickGelu)


def test_the_small_preset_has_the_size_that_is_promised():
    model = tiny_model(backbone=BackboneConfig(name="stoa-small"))
    table = model.clip.token_embedding.weight.numel()
    assert 1.5e6 < sum(p.numel() for p in model.parameters()) - table < 3e6


@pytest.mark.parametrize("name", [*PRESETS, "ViT-B-16-quickgelu", "ViT-L-14-336"])
def test_the_side_of_the_frames_is_the_backbones(name):
    assert image_side(BackboneConfig(name=name)) == {
        "stoa-small": 64,
        "stoa-small-16": 64,
        "stoa-tiny": 32,
        "ViT-L-14-336": 336,
    }.get(name, 224)


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("ViT-H-14-worldwide-378", "its text_cfg has hf_tokenizer_name"),
        ("ViT-L-14-CLIPA", "its text_cfg has hf_tokenizer_name"),
        ("coca_base", "its text_cfg has vocab_size 64000"),
    ],
)
def test_another_tokenizer_is_refused_before_anything_is_built(name, why):
    with pytest.raises(ValueError, match=f"{name}' is not a plain CLIP .*{why}"):
        Clip(BackboneConfig(name=name))
