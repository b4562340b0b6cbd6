"""Pictures, pages and films of explained clips: what they hold, that nothing hostile gets in, and where they go."""

import base64
import hashlib
import io
import json
import os
import re
import resource
import subprocess
import sys
from dataclasses import replace
from html.parser import HTMLParser

import av
import numpy as np
import pytest
from explained import explained, first_row, untrained_model
from factories import run_facts
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from safetensors.torch import save_file

import stoa
from stoa.cli import main
from stoa.config import Config
from stoa.files import sha256
from stoa.models.config import PRESETS, GraphConfig
from stoa.synthetic import SynthConfig, build_data_set
from stoa.tasks.explanation import ActionToken, Explanation, Graph, MatchedWord, Track, Word
from stoa.viz.explain import MARK, NAMES, frame_png, page_html, save_explanation, sheet_png
from stoa.viz.film import film_bytes
from stoa.viz.frames import strongest_edges
from stoa.viz.marks import PALETTE, colours_of, heat, ink_on, place_chip

HOSTILE = "<script>alert(1)</script>\"'&\n\x00 $5 \u202e"


@pytest.fixture(scope="module")
def shapes(tmp_path_factory):
    folder = tmp_path_factory.mktemp("shapes") / "set"
    config = SynthConfig(num_train=2, num_val=1, num_test=3, num_galleries=1, size=32, seconds=1.0)
    build_data_set(config, folder, say=lambda line: None)
    return folder


@pytest.fixture(scope="module")
def run_folder(shapes, tmp_path_factory):
    """A checkpoint of an untrained model."""
    run = tmp_path_factory.mktemp("run")
    step = run / "checkpoints" / "step-00000001"
    step.mkdir(parents=True)
    model = untrained_model(shapes).model
    save_file({k: v.contiguous() for k, v in model.state_dict().items()}, step / "model.safetensors")
    used = model.lm_head.used_ids.tolist()
    config = Config(model=model.config).to_dict()
    facts = run_facts(1, used_token_ids=used, architecture=PRESETS["stoa-tiny"], config=config)
    (step / "run.json").write_text(json.dumps(facts))
    sums = {name: sha256(step / name) for name in ("model.safetensors", "run.json")}
    (step / "manifest.json").write_text(json.dumps({"step": 1, "sha256": sums}))
    return run


@pytest.fixture(scope="module")
def found(shapes) -> Explanation:
    return explained(untrained_model(shapes), shapes)


def made(num_frames: int = 3, num_tracks: int = 2, side: int = 32) -> Explanation:
    """With all that there can be, on black frames."""
    boxes = [np.array([[0.2, 0.3, 0.6, 0.7]], dtype=np.float32)] * num_frames
    gaps = [np.zeros((0, 4), dtype=np.float32)] * (num_frames - 1) + [np.array([[0.5, 0.1, 0.9, 0.3]])]
    tracks = [Track("dog", boxes, MatchedWord("dog", 1, 0.9, 0.4)), Track("cat", gaps, None)]
    tracks += [Track(f"more {n}", gaps, MatchedWord(None, -1, 0.1, 0.0)) for n in range(num_tracks - 2)]
    attention = np.zeros((num_frames, 2, 2), dtype=np.float32)
    attention[:, 0, 1] = 0.7
    shares = [np.array([0.3], dtype=np.float32)] * num_frames
    actions = [ActionToken(MatchedWord("runs", 2, None, -0.001), attention, boxes, shares)]
    targets = np.full((num_frames, 4, 2), -1, dtype=np.int32)
    weights = np.zeros((num_frames, 4, 2), dtype=np.float32)
    if num_frames > 1:
        targets[0, 0], weights[0, 0] = (7, 1), (0.5, 0.2)
        targets[1, 3, 0], weights[1, 3, 0] = 0, 0.25
    graph = Graph((2, 2), targets, weights, weights, 0.25, 0.5, 1)
    words = [Word("a", 0.9), Word("dog", 0.5), Word("runs", None)]
    frames = np.zeros((num_frames, side, side, 3), dtype=np.uint8)
    return Explanation("a", "a dog runs", frames, words, tracks[:num_tracks], actions, graph, 0.8, 0.3, "x", ["note"])


def pixels(png: bytes) -> np.ndarray:
    with Image.open(io.BytesIO(png)) as image:
        assert image.format == "PNG"
        return np.asarray(image.convert("RGB")).astype(int)


def near(image: np.ndarray, colour) -> np.ndarray:
    return np.abs(image - np.array(colour)).sum(axis=-1) < 12


@pytest.mark.parametrize("num_frames", [1, 2, 12])
def test_tracks_are_drawn_in_colours_of_their_own(num_frames):
    explanation = made(num_frames)
    sheet = pixels(sheet_png(explanation))
    for colour in colours_of(explanation):
        assert near(sheet, colour).sum() > 20
    frame = pixels(frame_png(explanation, num_frames - 1, 200))
    assert frame.shape == (200, 200, 3)
    first, second = colours_of(explanation)
    left = near(frame, first)[70:130, 30:50]  # the left edge of its box is at 40
    assert left.any(axis=1).mean() > 0.9
    assert near(frame, second)[20:60, 100:180].sum() > 20


def test_attention_lies_on_its_patch_and_box():
    explanation = made()
    frame = pixels(frame_png(explanation, 1, 200, "attention"))
    most = np.argwhere(frame.sum(axis=-1) == frame.sum(axis=-1)[10:50, 150:190].max())
    assert (most[:, 0] < 100).all() and (most[:, 1] >= 100).all()
    box = heat(np.array(0.3 / 0.7))[:3]
    assert near(frame, box)[60:140, 38:44].any(axis=1).mean() > 0.9
    assert not near(pixels(frame_png(explanation, 1, 200, "frame")), box).any()


def test_the_strongest_edges_join_neighbouring_frames():
    edges = strongest_edges(made().graph)
    assert [(e.from_frame, e.to_frame, e.start, e.end) for e in edges] == [
        (0, 1, (0.25, 0.25), (0.75, 0.75)),
        (1, 0, (0.75, 0.75), (0.25, 0.25)),
    ]
    assert [e.weight for e in edges] == [0.5, 0.25]
    frame = pixels(frame_png(made(), 0, 200, "edges"))
    on_line = frame[range(60, 140), range(60, 140)]
    assert (on_line[:, 0] > 150).all() and (on_line[:, 2] < 120).all()
    # One patch that all look at leaves room for others.
    targets = np.full((2, 9, 1), -1, dtype=np.int32)
    targets[0, :, 0] = 9
    graph = Graph((3, 3), targets, np.ones((2, 9, 1), np.float32), np.ones((2, 9, 1), np.float32), 1, 0.5, 1)
    assert len(strongest_edges(graph)) == 2
    assert strongest_edges(made(1).graph) == []


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"t": 3}, "t is 3; the clip has frames 0 to 2"),
        ({"t": 0, "layer": "all"}, "layer is 'all'; expected"),
        ({"t": 0, "layer": "attention", "action": 1}, "action is 1; the model has 1 action tokens"),
    ],
)
def test_what_is_not_there_is_not_drawn(arguments, message):
    with pytest.raises(ValueError, match=message):
        frame_png(made(), **arguments)
    with pytest.raises(ValueError, match="the model has no graph"):
        frame_png(replace(made(), graph=None), 0, layer="edges")


def luminance(colour) -> float:
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in np.array(colour) / 255]
    return float(np.dot([0.2126, 0.7152, 0.0722], linear))


def test_labels_can_be_read_and_colours_be_told_apart():
    for colour in PALETTE:
        dark, light = sorted((luminance(colour), luminance(ink_on(colour))))
        assert (light + 0.05) / (dark + 0.05) > 4
    # Deuteranopia and protanopia (Machado et al. 2009), on linear light.
    for matrix in (
        [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]],
        [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
    ):
        seen = [np.clip(np.array(matrix) @ (np.array(c) / 255) ** 2.2, 0, 1) ** (1 / 2.2) * 255 for c in PALETTE]
        apart = [np.abs(a - b).sum() for i, a in enumerate(seen) for b in seen[:i]]
        assert min(apart) > 40
    assert (np.diff([luminance(c[:3]) for c in heat(np.linspace(0, 1, 9))]) > 0).all()


UNIT = st.floats(0, 1)


@given(st.lists(st.tuples(UNIT, UNIT, UNIT, UNIT), max_size=6), st.tuples(UNIT, UNIT, UNIT, UNIT), st.integers(10, 120))
@settings(max_examples=60, deadline=None)
def test_a_chip_stays_inside_and_finds_free_room(others, box, width):
    side, height = 200, 15

    def scaled(x1, y1, x2, y2):
        return min(x1, x2) * side, min(y1, y2) * side, max(x1, x2) * side, max(y1, y2) * side

    taken = [scaled(*other) for other in others]
    x, y = place_chip(scaled(*box), (width, height), taken, side)
    assert 0 <= x <= side - width and 0 <= y <= side - height
    alone = place_chip(scaled(*box), (width, height), [], side)
    again = place_chip(scaled(*box), (width, height), [(*alone, alone[0] + width, alone[1] + height)], side)
    x1, y1, x2, y2 = scaled(*box)
    if y1 >= height and y2 <= side - height:  # room above and below
        assert again[1] >= alone[1] + height or again[1] <= alone[1] - height


class Page(HTMLParser):
    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags, self.links, self.ids, self.text = [], [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        self.links += [value for name, value in attrs if name in ("src", "href", "action", "data", "srcset")]
        self.ids += [value for name, value in attrs if name == "id"]
        assert not any(name.startswith("on") or name == "style" for name, _ in attrs)

    def handle_data(self, data):
        self.text.append(data)


def test_a_page_needs_nothing_and_lets_nothing_in():
    explanation = made()
    word = replace(explanation.tracks[0].matched, word=HOSTILE)
    hostile = replace(
        explanation,
        clip=HOSTILE,
        caption=HOSTILE,
        words=[Word(HOSTILE, 0.5), *explanation.words],
        tracks=[Track(HOSTILE, explanation.tracks[0].boxes, word), explanation.tracks[1]],
        actions=[replace(explanation.actions[0], matched=word)],
        tagged_by=HOSTILE,
        notes=[HOSTILE],
    )
    for one in (explanation, hostile):
        page = Page(page_html(one))
        assert [attrs.get("type") for tag, attrs in page.tags if tag == "script"] == ["application/json", None]
        assert page.links and all(link.startswith("data:image/png;base64,") for link in page.links)
        assert len(page.ids) == len(set(page.ids))
        assert [tag for tag, _ in page.tags].count("svg") >= 3
    text = "".join(page.text)
    assert text.count("<script>alert(1)</script>") >= 6
    assert "alert(1)</script>" not in page_html(hostile)
    for one in (sheet_png(hostile), film_bytes(hostile), frame_png(hostile, 0)):
        assert len(one) > 1000


def test_the_policy_of_a_page_lets_its_own_style_and_script_run():
    text = page_html(made())
    policy = re.search(r'Content-Security-Policy" content="([^"]+)"', text)[1]
    assert policy.startswith("default-src 'none'; img-src data:;")
    for tag in ("style", "script"):
        (content,) = re.findall(f"<{tag}>(.*?)</{tag}>", text, re.DOTALL)
        digest = base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()
        assert f"{tag}-src 'sha256-{digest}'" in policy
    assert "<script" not in page_html(replace(made(), graph=None))


def test_controls_of_a_page_have_layers_and_labels(found):
    text = page_html(found)
    page = Page(text)
    inputs = {attrs["id"]: attrs["type"] for tag, attrs in page.tags if tag == "input"}
    looks = {f"look-{m}": "radio" for m in range(3)}
    assert inputs == {"tracks": "checkbox", "edges": "checkbox", "look-none": "radio", **looks}
    for m in range(3):
        assert text.count(f'class="attention attention-{m}"') == 4
        assert f"body:has(#look-{m}:checked) .attention-{m}" in text
    assert len(re.findall(r"<label><input", text)) == len(inputs)
    known = json.loads(re.search(r'id="graph">(.*?)</script>', text)[1])
    assert np.array(known["targets"]).shape == (*found.graph.targets_TPE.shape[:2], 8)
    assert all(word.text in "".join(page.text) for word in found.words)


@pytest.mark.parametrize("codecs", [None, {"mpeg4"}])
def test_a_film_plays(monkeypatch, codecs):
    if codecs is not None:
        monkeypatch.setattr(av, "codecs_available", codecs)
    explanation = made(3, side=16)
    explanation.frames_TSS3[1] = 255
    film = film_bytes(explanation, comment=MARK)
    with av.open(io.BytesIO(film)) as container:
        stream = container.streams.video[0]
        assert stream.codec.name == ("h264" if codecs is None else "mpeg4")
        frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(stream)]
        assert container.metadata["comment"] == MARK
        assert float(stream.average_rate * stream.duration * stream.time_base) == pytest.approx(21, abs=1)
    assert len(frames) == 21
    assert frames[0].shape[0] % 2 == frames[0].shape[1] % 2 == 0
    corner = [frame[40:80, 30:60].mean() for frame in (frames[0], frames[10], frames[20])]
    assert corner[0] < 30 and corner[1] > 225 and corner[2] < 30


def test_files_are_written_and_replaced(tmp_path):
    told = []
    paths = save_explanation(made(), tmp_path / "a" / "b", written=told.append)
    assert told == paths == [tmp_path / "a" / "b" / name for name in NAMES]
    before = [path.read_bytes() for path in paths]
    assert stoa.save_explanation(replace(made(), clip="other"), tmp_path / "a" / "b") == paths
    assert all(path.read_bytes() != old for path, old in zip(paths[:2], before[:2], strict=True))
    assert sorted(os.listdir(tmp_path / "a" / "b")) == sorted(NAMES)


def test_a_file_is_no_folder(tmp_path):
    (tmp_path / "file").write_text("mine")
    for folder in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(ValueError, match="is a file; pass a folder"):
            save_explanation(made(), folder)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("kind", ["file", "link", "folder", "dangling"])
def test_what_is_not_ours_is_left_alone(tmp_path, name, kind):
    path, elsewhere = tmp_path / name, tmp_path / "elsewhere"
    elsewhere.write_text(MARK if kind == "link" else "mine")
    if kind == "file":
        path.write_text("mine")
    elif kind == "folder":
        path.mkdir()
    else:
        path.symlink_to(elsewhere if kind == "link" else tmp_path / "nowhere")
    with pytest.raises(ValueError, match=f"where {name} is not of stoa explain"):
        save_explanation(made(), tmp_path)
    assert sorted(os.listdir(tmp_path)) == sorted([name, "elsewhere"])
    assert elsewhere.read_text() == (MARK if kind == "link" else "mine")


def test_the_command_explains_a_clip_of_a_manifest(run_folder, shapes, tmp_path, capsys):
    options = ["--model", str(run_folder), "--manifest", str(shapes / "manifest.jsonl")]
    assert main(["explain", *options]) == 0
    out = run_folder / "explain-test_000000"
    said = capsys.readouterr().out.splitlines()
    assert said == ["nouns and verbs of the caption: from the manifest", *(f"written to {out / n}" for n in NAMES)]
    assert pixels((out / "explain.png").read_bytes()).shape[1] > 1000
    assert main(["explain", *options, "--clip", "train_000001", "--out", str(tmp_path / "t")]) == 0
    assert sorted(os.listdir(tmp_path / "t")) == sorted(NAMES)
    assert "train_000001" in (tmp_path / "t" / "explain.html").read_text()


@pytest.mark.slow
def test_the_command_takes_seconds(run_folder, shapes, tmp_path):
    """From the start of the process, imports and all: processor time, which other processes do not change much."""
    row = first_row(shapes)
    options = ["--model", str(run_folder), "--out", str(tmp_path / "out"), "--detections", str(shapes / row.detections)]
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    command = [sys.executable, "-m", "stoa.cli", "explain", str(shapes / row.video), row.captions[0].text, *options]
    subprocess.run(command, check=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 15


def test_the_command_explains_a_video(run_folder, shapes, tmp_path, capsys):
    row = first_row(shapes)
    video = tmp_path / "my clip.mp4"
    video.write_bytes((shapes / row.video).read_bytes())
    boxes, labels = (str(shapes / name) for name in (row.detections, "labels.json"))
    options = ["--model", str(run_folder), "--detections", boxes, "--labels", labels]
    assert main(["explain", str(video), row.captions[0].text, *options]) == 0
    out = tmp_path / "explain-my clip"
    assert capsys.readouterr().out.startswith(
        f"nouns and verbs of the caption: from the vocabulary of Moving Shapes\nwritten to {out}/explain.png\n"
    )
    page = (out / "explain.html").read_text()
    assert "my clip.mp4" in page and "class 0" not in page
    assert main(["explain", "--model", str(run_folder), str(video), "a dog"]) == 0
    said = capsys.readouterr().out
    assert "by spaCy's en_core_web_sm" in said and "no trajectories: no detections were given" in said


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--manifest", "M", "--clip", "nobody"], "--clip 'nobody' is not in .*clips are 'train_000000' to 'test_0000"),
        (["--manifest", "M", "--labels", "absent.json"], "labels absent.json: .*; pass a list of class names"),
        (["--manifest", "M", "--labels", "ds_configs/demo.json"], "neither a JSON list of names nor a map"),
        (["--manifest", "M", "--out", "a.png"], "--out is a.png; expected a folder"),
        (["a.mp4", "a dog", "--manifest", "M"], "a.mp4 and --manifest .* are both given"),
        ([], "nothing to explain; give a video and its caption in quotes, or --manifest"),
        (["a.mp4"], "no caption is given for a.mp4; put it in quotes right after the video"),
        (["a.mp4", "?"], "the caption is '\\?'; expected at least one word"),
        (["absent.mp4", "a dog"], "absent.mp4: file does not exist"),
        (["a.mp4", "a dog", "--clip", "3"], "--clip is 3 and does nothing: manifest is null"),
        (["--manifest", "M", "--detections", "d.npz"], "--detections is d.npz and does nothing"),
    ],
)
def test_a_mistake_of_the_command_is_one_line(run_folder, shapes, capsys, repo_root, monkeypatch, options, message):
    monkeypatch.chdir(repo_root)
    manifest = str(shapes / "manifest.jsonl")
    given = [manifest if option == "M" else option for option in options]
    assert main(["explain", *given, "--model", str(run_folder)]) == 2
    error = capsys.readouterr().err.strip()
    assert "\n" not in error
    assert re.search(message, error)


def test_a_link_in_a_run_is_not_followed(run_folder, shapes, tmp_path, capsys):
    (run_folder / "explain-test_000001").symlink_to(tmp_path)
    manifest = str(shapes / "manifest.jsonl")
    assert main(["explain", "--model", str(run_folder), "--manifest", manifest, "--clip", "test_000001"]) == 2
    assert "explain-test_000001 is a link; name a folder with --out" in capsys.readouterr().err
    assert os.listdir(tmp_path) == []


def test_a_graph_that_sees_all_frames_is_drawn(shapes):
    found = explained(untrained_model(shapes, graph=GraphConfig(layers=1, reach=None)), shapes)
    assert len(sheet_png(found)) > 10_000
    assert {abs(edge.from_frame - edge.to_frame) for edge in strongest_edges(found.graph)} == {1}
