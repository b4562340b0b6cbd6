"""CLIP's weights as OpenAI, Hugging Face and open_clip publish them, and files that only have their names."""

import json
import pickle
import pickletools
import re
import zipfile
from pathlib import Path

import open_clip
import pytest
import torch
from safetensors.torch import save_file
from torch import nn
from torch.nn import functional as F

from stoa.models.clip import Clip, build_open_clip
from stoa.models.clip_formats import names_of, read_clip, sizes
from stoa.models.config import PRESETS, BackboneConfig
from stoa.models.weights import load_clip

TINY = BackboneConfig(name="stoa-tiny")
# torch.jit is deprecated in favour of torch.export; archives of it are what people have.
scripting = pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning", "ignore:`torch.jit:FutureWarning")


@pytest.fixture(scope="module")
def model() -> open_clip.CLIP:
    torch.manual_seed(1)
    model = build_open_clip(TINY).eval()
    for parameter in model.parameters():
        if parameter.ndim:
            nn.init.normal_(parameter, std=0.3 if parameter.ndim > 1 else 1.0)
    return model


@pytest.fixture
def state(model) -> dict[str, torch.Tensor]:
    return {name: x.clone() for name, x in model.state_dict().items()}


def load(path: Path) -> tuple[Clip, str]:
    torch.manual_seed(0)
    clip = Clip(TINY).eval()
    return clip, load_clip(clip, TINY, str(path))


def assert_same_logits(clip: Clip, model: open_clip.CLIP) -> None:
    images_BCHW, ids_BL = torch.randn(3, 3, 32, 32), torch.randint(300, 40000, (3, 32))
    ids_BL[:, 0], ids_BL[:, -1] = 49406, 49407
    with torch.no_grad():
        expected = model(images_BCHW, ids_BL)
        video = clip.visual(images_BCHW[:, None])[0][:, 0]
        text = clip.encode_text(clip.token_embedding(ids_BL))[:, -1]
    torch.testing.assert_close(F.normalize(video, dim=-1), expected[0], atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(F.normalize(text, dim=-1), expected[1], atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(clip.logit_scale.exp().squeeze(), expected[2])


class Quick(nn.Module):
    """Holds others, as those of OpenAI do."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * torch.sigmoid(1.702 * x)


class Plain(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.gelu(x)


def archive(path: Path, state: dict[str, torch.Tensor], *, quick: bool, traced: bool) -> Path:
    """As OpenAI's are: half precision, and numbers and masks beside the weights."""
    kind = Quick if quick else Plain
    top = kind()
    for name, x in state.items():
        *parents, leaf = name.split(".")
        module = top
        for parent in parents:
            if parent not in dict(module.named_children()):
                module.add_module(parent, kind())
            module = dict(module.named_children())[parent]
        module.register_parameter(leaf, nn.Parameter(x.half(), requires_grad=False))
    for name, number in (("input_resolution", 32), ("context_length", 32), ("vocab_size", 49408)):
        top.register_buffer(name, torch.tensor(number))
    top.transformer.resblocks.get_submodule("0").attn_mask = torch.zeros(32, 32)
    scripted = torch.jit.trace(top, torch.ones(2)) if traced else torch.jit.script(top)
    torch.jit.save(scripted, path)
    return path


@scripting
@pytest.mark.parametrize("traced", [True, False])
def test_an_archive_of_openai(tmp_path, state, traced, monkeypatch):
    path = archive(tmp_path / "ViT-T-8.pt", state, quick=False, traced=traced)
    monkeypatch.setattr(torch.jit, "load", None)
    clip, said = load(path)
    assert re.fullmatch(r"CLIP towers start from \S+ViT-T-8.pt \(sha256 \w{12}\)", said)
    for name, value in clip.state_dict().items():
        assert torch.equal(value.reshape(state[name].shape), state[name].half().float()), name


@scripting
@pytest.mark.parametrize("traced", [True, False])
def test_the_code_of_an_archive_tells_its_activation(tmp_path, state, traced):
    assert read_clip(archive(tmp_path / "a.pt", state, quick=True, traced=traced)).record == {"quick_gelu": True}
    with pytest.raises(ValueError, match="was trained with QuickGELU, stoa-tiny has the other activation"):
        load(tmp_path / "a.pt")


def repacked(path: Path, change) -> Path:
    """The archive with another pickle."""
    out = path.with_name("changed.pt")
    with zipfile.ZipFile(path) as old, zipfile.ZipFile(out, "w") as new:
        for info in old.infolist():
            data = old.read(info)
            new.writestr(info.filename, change(data) if info.filename.endswith("/data.pkl") else data)
    return out


class Bomb:
    def __reduce__(self):
        return (print, ("executed",))


GLOBALS = ["os\nsystem", "builtins\neval", "torch._utils\n_rebuild_parameter", "torch.jit._pickle\nos", "torch\nload"]


@scripting
def test_an_archive_that_would_run_code_is_refused(tmp_path, state, capsys):
    path = archive(tmp_path / "a.pt", state, quick=False, traced=False)
    changes = [lambda _: pickle.dumps(Bomb(), protocol=2)]
    changes += [lambda _, name=name: f"c{name}\n(X\x04\x00\x00\x00exittR.".encode() for name in GLOBALS]
    for change in changes:
        with pytest.raises(ValueError, match="its pickle names .*, which is no module, container or tensor"):
            load(repacked(path, change))
    assert "executed" not in capsys.readouterr().out


@scripting
def test_archives_with_a_damaged_pickle_are_refused_in_one_line(tmp_path, state):
    """Whatever byte is lost: a message, or the very weights."""
    path = archive(tmp_path / "a.pt", state, quick=False, traced=False)
    with zipfile.ZipFile(path) as file:
        (name,) = (n for n in file.namelist() if n.endswith("/data.pkl"))
        places = [place for _, _, place in pickletools.genops(file.read(name))]
    for place in places[:: len(places) // 60]:
        damaged = repacked(path, lambda data, place=place: data[:place] + data[place + 1 :])
        try:
            read_clip(damaged)
        except ValueError as error:
            assert "\n" not in str(error)


def huggingface(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The names that CLIPModel has for the weights of open_clip's CLIP."""
    out = {}
    for name, x in state.items():
        name = name.replace("visual.transformer.resblocks.", "vision_model.encoder.layers.")
        name = name.replace("transformer.resblocks.", "text_model.encoder.layers.")
        if ".in_proj_" in name:
            for part, rows in zip("qkv", x.chunk(3), strict=True):
                out[name.replace("attn.in_proj_", f"self_attn.{part}_proj.")] = rows.clone()
            continue
        for ours, theirs in (
            *(("attn.out_proj", "self_attn.out_proj"), ("ln_1", "layer_norm1"), ("ln_2", "layer_norm2")),
            *(("mlp.c_fc", "mlp.fc1"), ("mlp.c_proj", "mlp.fc2"), ("ln_final", "text_model.final_layer_norm")),
            *(("visual.ln_pre", "vision_model.pre_layrnorm"), ("visual.ln_post", "vision_model.post_layernorm")),
            ("visual.class_embedding", "vision_model.embeddings.class_embedding"),
            ("visual.conv1.weight", "vision_model.embeddings.patch_embedding.weight"),
            ("visual.positional_embedding", "vision_model.embeddings.position_embedding.weight"),
            ("visual.proj", "visual_projection.weight"),
            ("token_embedding.weight", "text_model.embeddings.token_embedding.weight"),
            ("text_projection", "text_projection.weight"),
        ):
            name = name.replace(ours, theirs)
        if name == "positional_embedding":
            name = "text_model.embeddings.position_embedding.weight"
        out[name] = (x.T if name.endswith("_projection.weight") else x).contiguous()
    for tower, places in (("text", 32), ("vision", 17)):
        out[f"{tower}_model.embeddings.position_ids"] = torch.arange(places)[None]
    return out


def publish(folder: Path, state: dict[str, torch.Tensor], form: str, activation: str | None = "gelu") -> Path:
    """A folder as on the hub, and what to give to --init."""
    if form == "bin":
        torch.save(state, folder / "pytorch_model.bin")
    elif form in ("folder", "file"):
        save_file(state, folder / "model.safetensors")
    else:
        names = list(state)
        parts = {f"model-{i + 1:05}-of-00003.safetensors": names[i::3] for i in range(3)}
        for file, held in parts.items():
            save_file({name: state[name] for name in held}, folder / file)
        index = {"metadata": {}, "weight_map": {name: file for file, held in parts.items() for name in held}}
        (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    if activation is not None:
        towers = {"hidden_act": activation} if activation else {}
        config = {"model_type": "clip", "text_config": towers, "vision_config": towers}
        (folder / "config.json").write_text(json.dumps(config))
    names = {"bin": "pytorch_model.bin", "file": "model.safetensors", "index": "model.safetensors.index.json"}
    return folder / names[form] if form in names else folder


@pytest.mark.parametrize("form", ["folder", "file", "bin", "index", "sharded"])
def test_hugging_faces_names(tmp_path, model, state, form):
    clip, said = load(publish(tmp_path, huggingface(state), form))
    assert "activation" not in said
    for name, value in clip.state_dict().items():
        assert torch.equal(value.reshape(state[name].shape), state[name]), name
    assert_same_logits(clip, model)


@pytest.mark.parametrize(
    ("activation", "quick"), [("gelu", False), ("quick_gelu", True), ("", True), (None, None), ("relu", "refused")]
)
def test_the_configuration_beside_hugging_faces_weights_tells_the_activation(tmp_path, state, activation, quick):
    path = publish(tmp_path, huggingface(state), "file", activation)
    if quick == "refused":
        with pytest.raises(ValueError, match=r"config.json: hidden_act is relu; expected gelu or quick_gelu"):
            load(path)
    else:
        assert read_clip(path).record.get("quick_gelu") == quick
    if quick is None:
        assert load(path)[1].endswith("; their activation, not told there, is GELU")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda name: name.startswith("text_"),
            "holds the vision tower alone; take the weights of the whole CLIPModel",
        ),
        (lambda name: name.startswith("visi"), "holds the text tower alone"),
        (lambda name: name == "visual_projection.weight", "1 missing: visual.proj"),
        (
            lambda name: name.endswith("vision_model.encoder.layers.1.self_attn.k_proj.bias"),
            "layers.1.*k_proj.bias' is mi",
        ),
    ],
)
def test_parts_of_hugging_faces_weights(tmp_path, state, change, message):
    kept = {name: x for name, x in huggingface(state).items() if not change(name)}
    with pytest.raises(ValueError, match=message):
        load(publish(tmp_path, kept, "file"))


def test_a_shard_that_was_not_downloaded_is_named(tmp_path, state):
    path = publish(tmp_path, huggingface(state), "sharded")
    (path / "model-00002-of-00003.safetensors").unlink()
    with pytest.raises(ValueError, match="of the 3 files it names 1 are missing, .*/model-00002-of-00003.safetensors"):
        load(path)
    (path / "model.safetensors.index.json").write_text("[1]")
    with pytest.raises(ValueError, match="not an index of weights"):
        load(path)


@pytest.mark.parametrize("quick", [True, False])
def test_the_configuration_beside_open_clips_weights(tmp_path, state, quick):
    torch.save(state, tmp_path / "open_clip_pytorch_model.bin")
    facts = {"model_cfg": {"quick_gelu": quick}, "preprocess_cfg": {"mean": [0.5, 0.5, 0.5]}}
    (tmp_path / "open_clip_config.json").write_text(json.dumps(facts))
    assert read_clip(tmp_path).record == {"quick_gelu": quick, "mean": [0.5, 0.5, 0.5]}
    with pytest.raises(ValueError, match="QuickGELU" if quick else r"pixels with mean \(0.5, 0.5, 0.5\)"):
        load(tmp_path)


def test_the_names_of_open_clips_other_class(tmp_path, state):
    prefix = {name: f"text.{name}" for name in state if not name.startswith("visual.") and name != "logit_scale"}
    torch.save({prefix.get(name, name): x for name, x in state.items()}, tmp_path / "w.bin")
    clip, _ = load(tmp_path / "w.bin")
    assert all(torch.equal(x.reshape(state[name].shape), state[name]) for name, x in clip.state_dict().items())


def test_a_resnet_is_named(tmp_path):
    torch.save({"visual.layer1.0.conv1.weight": torch.zeros(1)}, tmp_path / "RN50.pt")
    with pytest.raises(ValueError, match="its vision tower is a ResNet, not a ViT"):
        load(tmp_path / "RN50.pt")


def test_sizes_have_the_names_of_open_clip(state):
    assert sizes(state)[:4] == (8, 48, 2, 32) and PRESETS["stoa-tiny"]["vision_cfg"]["width"] == 48
    assert sizes({"visual.conv1.weight": torch.zeros(3)}) is None and sizes({}) is None
    vision, text = (open_clip.get_model_config("ViT-B-16")[f"{part}_cfg"] for part in ("vision", "text"))
    of_b16 = sizes(state)._replace(patch=16, width=vision["width"], layers=12, side=224, text_width=text["width"])
    assert {"ViT-B-16", "ViT-B-16-quickgelu"} <= set(names_of(of_b16)) and "ViT-B-32" not in names_of(of_b16)
