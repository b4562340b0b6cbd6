"""EVA's CLIP: the towers of open_clip and timm, small, against ours."""

import json

import open_clip
import pytest
import torch
from factories import USED, random_batch, tiny_config
from safetensors.torch import save_file
from timm.models import register_model
from timm.models.eva import Eva

from stoa.models.clip import Clip, architecture, grid_hw
from stoa.models.config import BackboneConfig, GraphConfig
from stoa.models.video_language import VideoLanguageModel
from stoa.models.weights import initialize, load_clip


@register_model
def eva_tiny_patch8_32(pretrained: bool = False, **kwargs) -> Eva:
    kept = {k: v for k, v in kwargs.items() if k in ("num_classes", "global_pool", "img_size")}
    return Eva(patch_size=8, embed_dim=48, depth=2, num_heads=3, mlp_ratio=3, **{"img_size": 32, **kept})


@pytest.fixture(scope="module")
def backbone(tmp_path_factory) -> BackboneConfig:
    vision = {"image_size": 32, "timm_model_name": "eva_tiny_patch8_32", "timm_pool": "token", "timm_proj": None}
    text = {"context_length": 32, "vocab_size": 49408, "width": 24, "heads": 2, "layers": 2}
    config = {"embed_dim": 32, "vision_cfg": vision, "text_cfg": text, "custom_text": True}
    path = tmp_path_factory.mktemp("configs") / "EVA-tiny.json"
    path.write_text(json.dumps(config))
    open_clip.add_model_config(path)
    return BackboneConfig(name="EVA-tiny")


@pytest.fixture
def theirs(backbone):
    torch.manual_seed(1)
    model = open_clip.create_model(backbone.name).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("bias"):
                parameter.normal_(std=0.3)  # they start at zero, which would hide a lost one
    return model


@pytest.mark.parametrize("form", ["pt", "safetensors"])
def test_both_towers_are_open_clips(backbone, theirs, tmp_path, form):
    path = tmp_path / f"eva.{form}"
    state = {name: x.contiguous() for name, x in theirs.state_dict().items()}
    torch.save(state, path) if form == "pt" else save_file(state, path)
    ours = Clip(backbone).eval()
    load_clip(ours, backbone, str(path))
    frames = torch.randint(0, 256, (2, 3, 3, 32, 32), dtype=torch.uint8)
    batch = random_batch(3)
    pixels = ((frames - ours.pixel_mean) / ours.pixel_std).flatten(0, 1)
    with torch.no_grad():
        expected = theirs.encode_image(pixels).unflatten(0, (2, 3))
        torch.testing.assert_close(ours.encode_frames(frames)[0], expected, rtol=1e-4, atol=1e-5)
        tokens = torch.nn.functional.pad(batch.tokens_BL, (0, 20))
        texts = ours.encode_text(ours.token_embedding(batch.tokens_BL))
        ends = texts[torch.arange(3), batch.text_mask_BL.sum(dim=1) - 1]
        torch.testing.assert_close(ends, theirs.encode_text(tokens), rtol=1e-4, atol=1e-5)
    assert {norm.eps for norm in ours.visual.modules() if isinstance(norm, torch.nn.LayerNorm)} == {1e-6}


def test_a_whole_model_starts_from_it_and_from_its_own_checkpoint(backbone, theirs, tmp_path):
    torch.save(theirs.state_dict(), tmp_path / "eva.pt")
    config = tiny_config(backbone=backbone, graph=GraphConfig(layers=1))
    model = VideoLanguageModel(config, used_token_ids=USED)
    initialize(model, str(tmp_path / "eva.pt"))
    assert grid_hw(backbone) == model.clip.visual.grid_hw == (4, 4)
    video = model.encode_video(random_batch(2))
    video.tokens_BGd.sum().backward()
    assert all(p.grad is not None for p in model.clip.visual.blocks[0].parameters())
    save_file(model.state_dict(), tmp_path / "ours.safetensors")
    again = VideoLanguageModel(config, used_token_ids=USED)
    initialize(again, str(tmp_path / "ours.safetensors"))
    for (name, a), (_, b) in zip(again.clip.named_parameters(), model.clip.named_parameters(), strict=True):
        assert torch.equal(a, b), name


def test_the_giant_of_the_release_is_one_of_them():
    vision = architecture(BackboneConfig(name="EVA01-g-14"))["vision_cfg"]
    assert vision["timm_model_name"] == "eva_giant_patch14_224"
    assert grid_hw(BackboneConfig(name="EVA01-g-14")) == (16, 16)


def test_eva02_is_refused():
    with pytest.raises(ValueError, match="EVA02-B-16' is not a plain CLIP .* ViT-L-14 or EVA01-g-14"):
        Clip(BackboneConfig(name="EVA02-B-16"))
