"""Pictures hold what they promise; mistakes are one line."""

import json
import re
from pathlib import Path

import matplotlib
import numpy as np
import pytest
import torch
from factories import run_facts, tiny_config
from matplotlib.axes import Axes
from PIL import Image
from safetensors.torch import save_file

from stoa.cli import main
from stoa.config import Config
from stoa.data.text import encode_caption, used_token_ids, word_ending_at
from stoa.manifest import Caption, read_manifest
from stoa.models.config import PRESETS, ActionConfig, ObjectConfig
from stoa.models.video_language import VideoLanguageModel
from stoa.synthetic import SynthConfig, build_data_set
from stoa.tasks.explain import Explanation, MatchedWord, Track, explain
from stoa.tasks.trained import TrainedModel
from stoa.viz.curves import draw_curves
from stoa.viz.explain import draw_explanation


@pytest.fixture(scope="module")
def shapes(tmp_path_factory):
    folder = tmp_path_factory.mktemp("shapes") / "set"
    config = SynthConfig(num_train=2, num_val=1, num_test=3, num_galleries=1, size=32, seconds=1.0)
    build_data_set(config, folder, say=lambda line: None)
    return folder


def model_for(shapes, **changes) -> tuple[VideoLanguageModel, list[int]]:
    torch.manual_seed(0)
    captions = [caption for row in read_manifest(shapes / "manifest.jsonl") for caption in row.captions]
    used = used_token_ids(captions)
    sizes = {"objects": ObjectConfig(num_trajectories=6, max_boxes=5), "actions": ActionConfig(num_tokens=3)}
    config = tiny_config(num_frames=7, max_tokens=28, **{**sizes, **changes})
    return VideoLanguageModel(config, used_token_ids=used).eval(), used


@pytest.fixture(scope="module")
def run_folder(shapes, tmp_path_factory):
    """A checkpoint of an untrained model."""
    run = tmp_path_factory.mktemp("run")
    step = run / "checkpoints" / "step-00000001"
    step.mkdir(parents=True)
    model, used = model_for(shapes)
    save_file({k: v.contiguous() for k, v in model.state_dict().items()}, step / "model.safetensors")
    config = Config(model=model.config).to_dict()
    facts = run_facts(1, used_token_ids=used, architecture=PRESETS["stoa-tiny"], config=config)
    (step / "run.json").write_text(json.dumps(facts))
    from stoa.files import sha256

    sums = {name: sha256(step / name) for name in ("model.safetensors", "run.json")}
    (step / "manifest.json").write_text(json.dumps({"step": 1, "sha256": sums}))
    return run


def width(picture: Path) -> int:
    with Image.open(picture) as image:
        return image.size[0]


def test_an_explanation_tells_every_trajectory_and_action(shapes):
    model, _ = model_for(shapes)
    trained = TrainedModel(model, torch.device("cpu"), 32, {})
    row = read_manifest(shapes / "manifest.jsonl", split="test")[0]
    names = json.loads((shapes / "labels.json").read_text())
    found = explain(trained, row, shapes, class_names=names)
    assert found.frames_TSS3.shape == (7, 32, 32, 3)
    assert 1 <= len(found.tracks) <= 6
    assert {track.name for track in found.tracks} <= set(names)
    for track in found.tracks:
        assert len(track.boxes) == 7
        assert sum(map(len, track.boxes)) > 0
    caption = row.captions[0]
    nouns, verbs = ([caption.text[s:e] for s, e in spans] for spans in (caption.nouns, caption.verbs))
    for matches, words in (([track.matched for track in found.tracks], nouns), (found.actions, verbs)):
        said = [m for m in matches if m is not None]
        assert len(said) == min(len(matches), len(words) + 1)
        assert sorted(m.word for m in said if m.word) == sorted(words)[: len(said)] or len(said) <= len(words)
        assert all(0 < m.probability <= 1 for m in said)
    assert explain(trained, row, shapes).tracks[0].name.startswith("class ")


def test_words_are_those_of_the_map_to_words(shapes):
    """A map that makes all trajectories alike gives every word one probability; over all words they sum to 1."""
    model, _ = model_for(shapes)
    trained = TrainedModel(model, torch.device("cpu"), 32, {})
    row = read_manifest(shapes / "manifest.jsonl", split="test")[0]

    def sum_of_matches() -> float:
        matched = [track.matched for track in explain(trained, row, shapes).tracks]
        assert None in matched  # no word is without a trajectory
        return sum(match.probability for match in matched if match is not None)

    before = sum_of_matches()
    model.word_head = torch.nn.Linear(model.clip.joint_width, model.clip.joint_width)
    torch.nn.init.zeros_(model.word_head.weight)
    assert sum_of_matches() == pytest.approx(1, abs=1e-5) != pytest.approx(before, abs=1e-3)


def test_a_model_without_objects_and_actions_has_none(shapes):
    model, _ = model_for(shapes, objects=ObjectConfig(num_trajectories=0), actions=ActionConfig(num_tokens=0))
    row = read_manifest(shapes / "manifest.jsonl", split="test")[0]
    found = explain(TrainedModel(model, torch.device("cpu"), 32, {}), row, shapes)
    assert found.tracks == found.actions == []


@pytest.mark.parametrize("num_frames", [1, 6, 7])
def test_tracks_are_drawn_in_colours_of_their_own(tmp_path, num_frames):
    boxes = [np.array([[0.2, 0.2, 0.6, 0.7]])] * num_frames
    gaps = [np.zeros((0, 4))] * (num_frames - 1) + [np.array([[0.5, 0.1, 0.9, 0.3]])]
    tracks = [Track("dog", boxes, MatchedWord("dog", 0.9)), Track("cat", gaps, None)]
    frames = np.zeros((num_frames, 32, 32, 3), dtype=np.uint8)
    draw_explanation(
        Explanation("a", "a dog of $5 or $6", frames, tracks, [MatchedWord(None, 0.5)]), tmp_path / "x" / "a.png"
    )
    with Image.open(tmp_path / "x" / "a.png") as picture:
        pixels = np.asarray(picture.convert("RGB")).reshape(-1, 3).astype(int)
    for index in range(2):
        colour = (np.array(matplotlib.colormaps["tab10"](index)[:3]) * 255).round()
        assert (np.abs(pixels - colour).sum(axis=1) < 12).sum() > 20


@pytest.mark.parametrize(
    ("text", "word"), [("a dog runs", "dog"), ("a skateboarder falls", "skateboarder"), ("the café opens", "café")]
)
def test_a_word_is_read_back_from_its_last_piece(text, word):
    start = text.index(word)
    encoded = encode_caption(Caption(text, ((start, start + len(word)),)), 16)
    (position,) = np.flatnonzero(encoded.noun_mask_L & encoded.word_end_L)
    assert word_ending_at(encoded.tokens_L.tolist(), int(position)) == word


def test_the_command_writes_a_picture(run_folder, shapes, tmp_path, capsys):
    options = ["--run", str(run_folder), "--manifest", str(shapes / "manifest.jsonl")]
    assert main(["explain", *options]) == 0
    assert "explain-test_000000.png" in capsys.readouterr().out
    assert width(run_folder / "explain-test_000000.png") > 500
    assert main(["explain", *options, "--clip", "train_000001", "--out", str(tmp_path / "t.png")]) == 0
    assert (tmp_path / "t.png").is_file()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--clip", "nobody"], "--clip 'nobody' is not in .*its clips are 'train_000000' to 'test_000002'"),
        (["--labels", "absent.json"], "labels absent.json: .*; pass a list of class names"),
        (["--labels", "ds_configs/demo.json"], "labels ds_configs/demo.json: neither a JSON list of names nor a map"),
    ],
)
def test_a_mistake_of_the_command_is_one_line(run_folder, shapes, capsys, options, message):
    assert main(["explain", "--run", str(run_folder), "--manifest", str(shapes / "manifest.jsonl"), *options]) == 2
    error = capsys.readouterr().err.strip()
    assert "\n" not in error
    assert re.search(message, error)


def test_curves(tmp_path, capsys):
    records = [{"step": s, "loss": 1 / s, **({"late": s} if s > 3 else {})} for s in range(1, 9)]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(r) + "\n" for r in records))
    draw_curves([tmp_path], [["loss", "late"], ["loss"]], tmp_path / "c.png", smooth=3)
    assert width(tmp_path / "c.png") > 900
    with pytest.raises(ValueError, match="no metric 'los'; there are late, loss"):
        draw_curves([tmp_path], [["los"]], tmp_path / "c.png")
    with pytest.raises(ValueError, match="holds no metrics; pass the output_dir of a run"):
        draw_curves([tmp_path / "empty"], [["loss"]], tmp_path / "c.png")
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "metrics.jsonl").write_text('{"step": 1, "loss": 1.0}\n')
    draw_curves([tmp_path, tmp_path / "other"], [["loss", "late"]], tmp_path / "two.png")
    assert (tmp_path / "two.png").is_file()
    assert main(["curves", "--run", str(tmp_path), "--metrics", '["loss,late"]']) == 0
    assert (tmp_path / "curves.png").is_file()


def test_curves_of_several_runs_have_a_line_each(tmp_path, monkeypatch):
    labels = []
    plot = Axes.plot
    monkeypatch.setattr(Axes, "plot", lambda *args, **rest: labels.append(rest["label"]) or plot(*args, **rest))
    for name, slope in (("one", 1), ("two", 2)):
        (tmp_path / name).mkdir()
        rows = [json.dumps({"step": step, "loss": slope * step}) for step in (1, 2)]
        (tmp_path / name / "metrics.jsonl").write_text("\n".join(rows) + "\n")
    runs = [argument for name in ("one", "two") for argument in ("--run", str(tmp_path / name))]
    assert main(["curves", *runs, "--out", str(tmp_path / "both.png")]) == 0
    assert labels == ["one: loss", "two: loss"]
    assert (tmp_path / "both.png").is_file()
