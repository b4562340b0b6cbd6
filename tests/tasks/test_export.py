"""Exported models: loaded back strictly, and the towers as graphs, on real clips."""

import json

import numpy as np
import pytest
import torch
from factories import USED, random_batch, tiny_model

from stoa.cli import main
from stoa.config import model_from_dict
from stoa.data.text import encode_caption
from stoa.models.config import GraphConfig
from stoa.tasks.evaluation import Abilities, open_split
from stoa.tasks.export import export_dual_encoder, export_model, load_exported
from stoa.tasks.gallery import encode_galleries
from stoa.tasks.retrieval import itc_scores
from stoa.tasks.trained import TrainedModel, resized
from stoa.tasks.videos import VideoReader

ABILITIES = Abilities("two_stream", "start", ["one", "two"])


@pytest.fixture(params=["stoa", "stgt"])
def trained(request) -> TrainedModel:
    model = tiny_model(num_answers=2, num_frames=3, graph=GraphConfig(layers=int(request.param == "stgt"))).eval()
    if request.param == "stgt":
        with torch.no_grad():
            for parameter in model.graph.parameters():  # what is zero in a fresh one would hide the rest
                parameter += 0.1 * torch.randn(parameter.shape)
    return TrainedModel(model, torch.device("cpu"), 32, {"checkpoint": "step 7"})


@pytest.fixture
def exported(trained, tmp_path):
    export_model(trained, ABILITIES, "answering", tmp_path / "out")
    return tmp_path / "out"


def test_what_was_written_is_loaded(trained, exported):
    again, abilities, task = load_exported(exported, torch.device("cpu"), model_from_dict)
    assert (again.model.config, again.side, again.origin) == (trained.model.config, 32, trained.origin)
    assert abilities == ABILITIES and task == "answering"
    assert again.model.lm_head.used_ids.tolist() == USED
    state = trained.model.state_dict()
    assert state.keys() == again.model.state_dict().keys()
    assert all(torch.equal(tensor, state[name]) for name, tensor in again.model.state_dict().items())


def test_damage_is_told(exported):
    cpu = torch.device("cpu")
    config = exported / "config.json"
    facts = json.loads(config.read_text())
    config.write_text(json.dumps({**facts, "version": 9}))
    with pytest.raises(ValueError, match="has version 9; this reads 1"):
        load_exported(exported, cpu, model_from_dict)
    config.write_text(json.dumps({**facts, "model": {**facts["model"], "max_tokens": 9}}))
    with pytest.raises(ValueError, match="do not fit this model .*fusion.text_positions"):
        load_exported(exported, cpu, model_from_dict)
    config.write_text(json.dumps({**facts, "architecture": {}}))
    with pytest.raises(ValueError, match="was trained when stoa-tiny stood for {}"):
        load_exported(exported, cpu, model_from_dict)
    config.write_text(json.dumps(facts))
    config.write_text("{")
    with pytest.raises(ValueError, match=r"config.json is damaged .*; export it again"):
        load_exported(exported, cpu, model_from_dict)
    config.write_text(json.dumps({name: value for name, value in facts.items() if name != "origin"}))
    with pytest.raises(ValueError, match=r"config.json is damaged \(it has no 'origin'\); export it again"):
        load_exported(exported, cpu, model_from_dict)
    config.write_text(json.dumps(facts))
    with open(exported / "model.safetensors", "r+b") as file:
        file.seek(-1, 2)
        file.write(b"\x55")
    with pytest.raises(ValueError, match="is missing or not the file that config.json was written for"):
        load_exported(exported, cpu, model_from_dict)


def test_other_frames_and_text_lengths(trained):
    same = {"num_frames": trained.model.config.num_frames, "max_tokens": None}
    assert resized(trained, **same) is trained
    other = resized(trained, num_frames=1, max_tokens=20)
    assert (other.model.config.num_frames, other.model.config.max_tokens) == (1, 20)
    for name, weight in trained.model.answer_head.state_dict().items():
        torch.testing.assert_close(other.model.answer_head.state_dict()[name], weight)
    batch = random_batch(2, frames=1, side=trained.side)
    with torch.no_grad():
        assert other.model.encode_video(batch).pooled_Bd.isfinite().all()
    with pytest.raises(ValueError, match=f"has 1 frames a clip, and the model is of {same['num_frames']}"):
        trained.model.encode_video(batch)


@pytest.fixture
def clips_and_scores(trained, shapes):
    clips = open_split(str(shapes / "manifest.jsonl"), "test")
    videos = VideoReader(clips, trained.model.config, 32, batch_size=12)
    (gallery,) = encode_galleries([trained], videos)
    scores = itc_scores(trained, gallery) / itc_scores(trained, gallery).abs().max()
    (read,) = videos
    tokens = np.stack([encode_caption(row.captions[0], 12).tokens_L for row in read.rows])
    return read.batch.frames_BTCHW, torch.from_numpy(tokens), scores


@pytest.mark.slow
def test_both_towers_as_graphs(trained, tmp_path, clips_and_scores):
    frames, tokens, scores = clips_and_scores
    export_dual_encoder(trained, tmp_path, onnx=True)
    import onnxruntime

    def by_torch(name: str, x: torch.Tensor) -> torch.Tensor:
        return torch.export.load(tmp_path / f"{name}.pt2").module()(x)

    def by_onnx(name: str, x: torch.Tensor) -> torch.Tensor:
        session = onnxruntime.InferenceSession(tmp_path / f"{name}.onnx")
        return torch.from_numpy(session.run(None, {"input": x.numpy()})[0])

    for run in (by_torch, by_onnx):
        video, text = run("video_encoder", frames), run("text_encoder", tokens)
        cosines = text @ video.T
        torch.testing.assert_close(cosines / cosines.abs().max(), scores, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(video.norm(dim=1), torch.ones(12))
        for size in (1, 5):
            torch.testing.assert_close(run("video_encoder", frames[:size]), video[:size], atol=1e-5, rtol=1e-5)
            torch.testing.assert_close(run("text_encoder", tokens[:size]), text[:size], atol=1e-5, rtol=1e-5)


def test_an_exported_model_is_evaluated_like_a_run(exported, shapes, tmp_path, capsys):
    arguments = ["evaluate", "--run", str(exported), "--manifest", str(shapes / "manifest.jsonl")]
    assert main(arguments) == 2
    assert "--questions is missing" in capsys.readouterr().err  # it was fine-tuned for answering
    assert main([*arguments, "--task", "retrieval", "--compare", "msrvtt"]) == 2
    assert (
        "no published figures of retrieval on it are on record; did you mean 'msrvtt-1k-a'" in capsys.readouterr().err
    )
    arguments += ["--task", "retrieval", "--baseline", "false"]
    assert main(arguments) == main([*arguments, "--view", "blind"]) == main([*arguments, "--split", "val"]) == 0
    reports = {path.name: json.loads(path.read_text()) for path in exported.glob("retrieval-*.json")}
    assert reports.keys() == {"retrieval-test.json", "retrieval-test-blind.json", "retrieval-val.json"}
    assert reports["retrieval-test.json"]["protocol"]["checkpoint"] == "step 7"
    (exported / "retrieval-val.json").write_text(json.dumps(reports["retrieval-test.json"]))
    assert main([*arguments, "--split", "val"]) == 0
    (other,) = exported.glob("retrieval-val-????????.json")
    assert json.loads(other.read_text()) == reports["retrieval-val.json"]
    assert json.loads((exported / "retrieval-val.json").read_text()) == reports["retrieval-test.json"]
    assert main([*arguments, "--num_frames", "2", "--max_tokens", "14", "--out", str(tmp_path / "r.json")]) == 0
    card = json.loads((tmp_path / "r.json").read_text())["protocol"]
    assert (card["frames"], card["text"]) == ("2 by time, 32 px", "14 tokens")
    assert main([*arguments, "--hard", str(shapes / "hard")]) == 0
    assert json.loads((exported / "retrieval-test.json").read_text()) == reports["retrieval-test.json"]
    (other,) = exported.glob("retrieval-test-????????.json")
    assert json.loads(other.read_text())["protocol"]["hard sets"].startswith(f"{shapes / 'hard'}: action_swap,")
    assert main(["export", "--run", str(tmp_path / "nothing"), "--out", str(tmp_path / "new")]) == 2
    assert "no checkpoint under" in capsys.readouterr().err
