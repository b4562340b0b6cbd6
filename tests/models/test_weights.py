"""Weights are loaded strictly, and every difference is named."""

import open_clip
import pytest
import torch
from factories import USED, tiny_model
from safetensors.torch import save_file

from stoa.models.clip import Clip, build_open_clip
from stoa.models.config import ActionConfig, BackboneConfig, FusionConfig, GraphConfig, ObjectConfig
from stoa.models.layers import POSITION_SCALE
from stoa.models.weights import (
    Trained,
    initialize,
    is_run,
    load_clip,
    load_pretrained,
    locate,
    require_trained_alike,
)

TINY = BackboneConfig(name="stoa-tiny")


@pytest.fixture
def state() -> dict[str, torch.Tensor]:
    torch.manual_seed(1)
    return build_open_clip(TINY).state_dict()


def load(path) -> Clip:
    torch.manual_seed(0)
    clip = Clip(TINY)
    assert str(path) in load_clip(clip, TINY, str(path))
    return clip


@pytest.mark.parametrize("form", ["bare", "training", "ddp", "safetensors", "half"])
def test_a_local_open_clip_checkpoint(tmp_path, state, form):
    path = tmp_path / ("w.safetensors" if form == "safetensors" else "w.pt")
    if form == "safetensors":
        save_file({k: v.clone() for k, v in state.items()}, path)
    elif form == "training":
        torch.save({"epoch": 3, "name": "run", "state_dict": state}, path)
    elif form == "ddp":
        torch.save({"state_dict": {f"module.{k}": v for k, v in state.items()}}, path)
    else:
        torch.save({k: v.half() if form == "half" else v for k, v in state.items()}, path)
    clip = load(path)
    for name, value in clip.state_dict().items():
        tolerance = 1e-3 if form == "half" else 0
        torch.testing.assert_close(value.reshape(state[name].shape), state[name], atol=tolerance, rtol=tolerance)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: s.pop("visual.proj"), "1 missing: visual.proj"),
        (lambda s: s.update(extra=torch.zeros(2)), "1 unexpected: extra"),
        (
            lambda s: s.update({"text_projection": torch.zeros(32, 7)}),
            r"1 of another shape: text_projection \(32, 7\) instead of \(32, 32\)",
        ),
        (
            lambda s: [s.pop(k) for k in list(s) if k.startswith("transformer.resblocks.1.")],
            r"12 missing: transformer.resblocks.1.attn.in_proj_bias, .*, \.\.\.",
        ),
    ],
)
def test_a_difference_is_an_error_that_names_the_key(tmp_path, state, change, message):
    change(state)
    torch.save(state, tmp_path / "w.pt")
    with pytest.raises(ValueError, match=message) as caught:
        load(tmp_path / "w.pt")
    assert "--model.backbone.name" in str(caught.value)


def test_what_is_neither_file_nor_tag(tmp_path):
    with pytest.raises(ValueError, match="'absent.pt' is neither a file nor a pretrained tag of stoa-tiny"):
        load_clip(Clip(TINY), TINY, "absent.pt")
    (tmp_path / "junk.pt").write_bytes(b"junk")
    with pytest.raises(ValueError, match=r"junk.pt: not a checkpoint of tensors: it is text, not weights \('junk'\)"):
        load_clip(Clip(TINY), TINY, str(tmp_path / "junk.pt"))


class Bomb:
    def __reduce__(self):
        return (print, ("executed",))


def test_a_pickle_that_would_run_code_is_refused(tmp_path, capsys):
    torch.save({"state_dict": Bomb()}, tmp_path / "bomb.pt")
    with pytest.raises(ValueError, match=r"not a checkpoint of tensors: it holds more than tensors \(print\)"):
        load_clip(Clip(TINY), TINY, str(tmp_path / "bomb.pt"))
    assert "executed" not in capsys.readouterr().out


@pytest.mark.parametrize("tag", ["openai", "metaclip_400m"])
def test_the_wrong_activation_for_a_tag_is_refused(tag):
    config = BackboneConfig(name="ViT-B-16")
    assert tag in open_clip.list_pretrained_tags_by_model(config.name)
    with pytest.raises(ValueError, match="trained with QuickGELU, .*use --model.backbone.name ViT-B-16-quickgelu$"):
        load_clip(Clip(TINY), config, tag)


def test_a_tag_of_other_pixel_statistics_is_refused():
    config = BackboneConfig(name="ViT-L-14")
    with pytest.raises(ValueError, match=r"'laion2b_s32b_b82k' was trained on pixels with mean \(0.5, 0.5, 0.5\)"):
        load_clip(Clip(TINY), config, "laion2b_s32b_b82k")


@pytest.mark.parametrize(
    ("name", "given", "message"),
    [
        ("ViT-B-16-quickgelu", "opnai", r"; did you mean 'openai'\? \(tags: openai, dfn2b, metaclip_400m, "),
        ("ViT-B-16", "Laion2B-s34b-b88k", r"; did you mean 'laion2b_s34b_b88k'\? \(tags: openai, "),
        ("ViT-B-16", "laion2b_s34b_b79k", r"; it is one of ViT-B-32 \(tags: openai, "),
        ("stoa-tiny", "openai", r"; it is one of RN50, RN101, .*, \.\.\. \(tags: none\)$"),
        ("stoa-tiny", "{folder}/weight.pt", r"of stoa-tiny; did you mean \S+/weights.pt\?$"),
        ("stoa-tiny", "{folder}/absent/w.pt", "of stoa-tiny$"),
        ("stoa-tiny", "{folder}", "a folder without weights of CLIP; expected open_clip_model.safetensors, "),
    ],
)
def test_what_may_have_been_meant(tmp_path, name, given, message):
    (tmp_path / "weights.pt").write_bytes(b"")
    with pytest.raises(ValueError, match=message):
        locate(BackboneConfig(name=name), given.format(folder=tmp_path))


@pytest.mark.parametrize(
    ("record", "message"),
    [
        ({}, None),
        ({"quick_gelu": False, "mean": [0.48145466, 0.4578275, 0.40821073]}, None),
        ({"quick_gelu": True}, "w was trained with QuickGELU, ViT-B-16 has the .*; use .* ViT-B-16-quickgelu$"),
        ({"std": [0.5, 0.5, 0.5]}, r"w was trained on pixels with std \(0.5, 0.5, 0.5\)"),
    ],
)
def test_what_is_on_record_of_a_training(record, message):
    if message is None:
        require_trained_alike(BackboneConfig(name="ViT-B-16"), "w", record)
    else:
        with pytest.raises(ValueError, match=message):
            require_trained_alike(BackboneConfig(name="ViT-B-16"), "w", record)


def test_an_activation_that_has_no_twin():
    with pytest.raises(ValueError, match="w was trained with QuickGELU, stoa-tiny .*; choose another backbone$"):
        require_trained_alike(TINY, "w", {"quick_gelu": True})


@pytest.mark.parametrize(
    ("patch", "width", "layers", "side", "text_width", "name"),
    [(14, 1024, 24, 224, 768, "ViT-L-14"), (32, 768, 12, 224, 512, "ViT-B-32"), (16, 640, 12, 224, 512, None)],
)
def test_weights_of_another_size_are_named(tmp_path, patch, width, layers, side, text_width, name):
    blank = torch.zeros(1)
    state = {f"visual.transformer.resblocks.{i}.ln_1.weight": blank.expand(width) for i in range(layers)}
    state["visual.conv1.weight"] = blank.expand(width, 3, patch, patch)
    state["visual.positional_embedding"] = blank.expand((side // patch) ** 2 + 1, width)
    state["token_embedding.weight"] = blank.expand(49408, text_width)
    torch.save(state, tmp_path / "w.pt")
    with pytest.raises(ValueError) as caught:
        load(tmp_path / "w.pt")
    assert f"are of {name or 'a CLIP'} (vision width {width}, {layers} blocks, patches of {patch} px" in str(
        caught.value
    )
    assert "model.backbone.name is stoa-tiny (vision width 48, 2 blocks, patches of 8 px" in str(caught.value)
    assert str(caught.value).endswith(f"give --model.backbone.name {name}" if name else "they were made for")


def test_values_that_are_no_numbers_are_refused(tmp_path, state):
    state["ln_final.bias"][3] = torch.nan
    torch.save(state, tmp_path / "w.pt")
    with pytest.raises(ValueError, match="ln_final.bias has values that are not finite"):
        load(tmp_path / "w.pt")


def test_what_can_only_be_a_run(tmp_path, state, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("openai", "run", "weights", "run/checkpoints/step-00000001"):
        (tmp_path / name).mkdir(parents=True)
    for name in ("weights", "run/checkpoints/step-00000001"):
        save_file({k: v.clone() for k, v in state.items()}, tmp_path / name / "model.safetensors")
    (tmp_path / "run/checkpoints/step-00000001/run.json").write_text("{}")
    known = {name: is_run(BackboneConfig(), name) for name in ("openai", "run", "weights", "w.pt")}
    assert known == {"openai": False, "run": True, "weights": False, "w.pt": False}
    assert is_run(BackboneConfig(), "run/checkpoints/step-00000001")


def test_the_fusion_encoder_starts_from_the_loaded_text_tower(tmp_path, state):
    torch.save(state, tmp_path / "w.pt")
    model = tiny_model()
    initialize(model, str(tmp_path / "w.pt"))
    for own, text in zip(model.fusion.blocks, model.clip.text_blocks, strict=True):
        for a, b in zip(own.state_dict().values(), text.state_dict().values(), strict=True):
            assert torch.equal(a, b)
    assert torch.equal(model.fusion.blocks[0].mlp.c_fc.weight, state["transformer.resblocks.0.mlp.c_fc.weight"])
    positions, towers = model.fusion.text_positions, state["positional_embedding"][:12]
    torch.testing.assert_close(positions, towers * (positions.norm() / towers.norm()))
    assert positions.square().mean().sqrt().item() == pytest.approx(POSITION_SCALE)
    assert torch.equal(model.fusion.ln_final.weight, state["ln_final.weight"])


def test_the_towers_of_our_own_checkpoint(tmp_path):
    trained, fresh = tiny_model(seed=1), tiny_model(seed=2)
    save_file({k: v.clone() for k, v in trained.state_dict().items()}, tmp_path / "model.safetensors")
    initialize(fresh, str(tmp_path / "model.safetensors"))
    for a, b in zip(fresh.clip.state_dict().values(), trained.clip.state_dict().values(), strict=True):
        assert torch.equal(a, b)


def start(model, other) -> None:
    load_pretrained(model, Trained(other.state_dict(), other.config, USED, "a run"))


WITHOUT = {"objects": ObjectConfig(num_trajectories=0), "actions": ActionConfig(num_tokens=0)}


def test_all_of_a_model_without_objects_and_actions():
    small, large, fresh = tiny_model(seed=1, **WITHOUT), tiny_model(seed=2), tiny_model(seed=2)
    start(large, small)
    towers = {k.removeprefix("clip."): v for k, v in small.state_dict().items() if k.startswith("clip.")}
    fresh.clip.load_state_dict(towers)
    fresh.start_from_towers()
    grown = {"fusion.video_positions", "fusion.type_embeddings"}
    for name, value in large.state_dict().items():
        if name not in grown:
            source = small if name in small.state_dict() else fresh
            assert torch.equal(value, source.state_dict()[name]), name
    assert torch.equal(large.fusion.video_positions[:3], small.fusion.video_positions)
    assert torch.equal(large.fusion.video_positions[3:], fresh.fusion.video_positions[3:])
    ours, theirs = large.fusion.type_embeddings, small.fusion.type_embeddings  # frames, pooled, ..., text
    assert torch.equal(ours[[0, 1, -1]], theirs) and torch.equal(ours[2:4], fresh.fusion.type_embeddings[2:4])


@pytest.mark.parametrize(("then", "now"), [(4, 8), (8, 4), (3, 1), (1, 3)])
def test_other_frames_than_those_of_training(then, now):
    """Embeddings that grow evenly over a clip do so too with more or fewer frames, but at its very ends."""
    changes = {"graph": GraphConfig(layers=1)}
    old, new = (tiny_model(num_frames=n, **changes) for n in (then, now))
    middles = (torch.arange(then) + 0.5) / then
    tokens = old.fusion.video_positions, old.objects.frame_embedding, old.actions.frame_embedding
    with torch.no_grad():
        for table in (*tokens[1:], old.graph.frame_embedding):
            table.copy_(middles[:, None, None].expand_as(table))
        old.fusion.video_positions[:then] = middles[:, None]
        old.fusion.video_positions[-then * 9 :] = middles.repeat_interleave(9)[:, None]
    start(new, old)
    expected = ((torch.arange(now) + 0.5) / now).clamp(0.5 / then, 1 - 0.5 / then)
    for table in (new.objects.frame_embedding, new.actions.frame_embedding, new.graph.frame_embedding):
        torch.testing.assert_close(table[:, 0, 0], expected)
    positions = new.fusion.video_positions
    torch.testing.assert_close(positions[:now, 0], expected)
    torch.testing.assert_close(positions[-now * 9 :, 0], expected.repeat_interleave(9))
    assert torch.equal(positions[now : now + 8], tokens[0][then : then + 8])  # pooled, trajectories, actions


def test_a_graph_joins_what_is_there():
    plain, joined = tiny_model(seed=1), tiny_model(seed=2, graph=GraphConfig(layers=1))
    start(joined, plain)
    for name, value in plain.state_dict().items():
        if name not in ("fusion.video_positions", "fusion.type_embeddings"):
            assert torch.equal(joined.state_dict()[name], value), name
    spatial = joined.graph.blocks[0].spatial.state_dict()
    assert all(torch.equal(spatial[k], v) for k, v in plain.clip.visual.blocks[1].state_dict().items())
    assert torch.equal(joined.fusion.video_positions[: len(plain.fusion.video_positions)], plain.fusion.video_positions)


def test_a_map_to_words_joins_what_is_there():
    source = tiny_model(seed=1)
    model = tiny_model(seed=2, objects=ObjectConfig(num_trajectories=4, max_boxes=3, word_head=True))
    start(model, source)
    head = model.word_head
    assert torch.equal(head.weight, torch.eye(len(head.weight))) and not head.bias.any()
    assert torch.equal(model.trajectories.cls, source.trajectories.cls)


def test_what_is_added_to_actions_joins_what_is_there():
    objects = ObjectConfig(num_trajectories=4, max_boxes=3, motion=True)
    source = tiny_model(seed=1, objects=objects)
    model = tiny_model(seed=2, objects=objects, actions=ActionConfig(num_tokens=3, motion=True, word_head=True))
    queries = model.action_motion.queries.clone()
    start(model, source)
    assert torch.equal(model.action_motion.queries, queries)
    assert torch.equal(model.verb_head.weight, torch.eye(len(model.verb_head.weight)))
    assert torch.equal(model.actions.cls, source.actions.cls)


@pytest.mark.parametrize("what", ["look", "motion", "relations", "changes"])
def test_what_is_added_to_trajectories_joins_what_is_there(what):
    source = tiny_model(seed=1)
    model = tiny_model(seed=2, objects=ObjectConfig(num_trajectories=4, max_boxes=3, **{what: True}))
    added = model.get_submodule(what)
    fresh = {name: weight.clone() for name, weight in added.state_dict().items()}
    start(model, source)
    assert torch.equal(model.trajectories.cls, source.trajectories.cls)
    assert all(torch.equal(weight, fresh[name]) for name, weight in added.state_dict().items())


def test_groups_of_tokens_are_met_by_name():
    """A graph without objects and actions, in a model where these stand before it."""
    graph = {"graph": GraphConfig(layers=1)}
    alone, joined, fresh = (
        tiny_model(seed=1, **graph, **WITHOUT),
        tiny_model(seed=2, **graph),
        tiny_model(seed=2, **graph),
    )
    start(joined, alone)
    for part in ("frames", "pooled", "graph"):
        ours, theirs = joined.fusion.slot(part), alone.fusion.slot(part)
        assert torch.equal(joined.fusion.video_positions[ours], alone.fusion.video_positions[theirs]), part
    for part in ("objects", "actions"):
        slot = joined.fusion.slot(part)
        assert torch.equal(joined.fusion.video_positions[slot], fresh.fusion.video_positions[slot]), part
    assert torch.equal(joined.fusion.type_embeddings[[0, 1, 4, 5]], alone.fusion.type_embeddings)


def test_shorter_text_has_the_first_positions():
    longer, short = tiny_model(seed=1, max_tokens=12), tiny_model(seed=2, max_tokens=8)
    start(short, longer)
    assert torch.equal(short.fusion.text_positions, longer.fusion.text_positions[:8])


def test_longer_text_goes_on_with_the_positions_of_the_tower():
    short, longer = tiny_model(seed=1, max_tokens=8), tiny_model(seed=2, max_tokens=12)
    start(longer, short)
    positions = longer.fusion.text_positions
    assert torch.equal(positions[:8], short.fusion.text_positions)
    towers = longer.clip.positional_embedding[:12]
    torch.testing.assert_close(positions[8:], towers[8:] * POSITION_SCALE / towers.square().mean().sqrt())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"actions": ActionConfig(num_tokens=2)}, r"of another shape: .*fusion.video_positions \(9, 32\)"),
        ({"graph": GraphConfig(layers=1)}, "unexpected: graph"),
        ({"fusion": FusionConfig(layers=1)}, "missing: fusion.blocks.1"),
    ],
)
def test_a_model_that_does_not_fit(changes, message):
    with pytest.raises(ValueError, match=f"weights from a run do not fit .*{message}.*; give the values under model"):
        start(tiny_model(), tiny_model(**changes))
