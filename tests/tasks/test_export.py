"""Exported models: loaded back strictly, and the towers as graphs, on real clips."""

import json

import numpy as np
import pytest
import torch
from factories import USED, random_batch, tiny_model

from stoa.cli import main
from stoa.config import model_from_dict
from stoa.data.text import encode_caption
from stoa.models.compact import TABLE, TOKEN_IDS, restored
from stoa.models.config import GraphConfig
from stoa.models.weights import initialize
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


def test_a_compact_one_knows_the_same_of_the_words_it_was_trained_on(trained, tmp_path):
    export_model(trained, ABILITIES, None, tmp_path / "whole")
    export_model(trained, ABILITIES, None, tmp_path / "compact", compact=True)
    size = {name: (tmp_path / name / "model.safetensors").stat().st_size for name in ("whole", "compact")}
    assert size["compact"] < 0.25 * size["whole"]
    again, _, _ = load_exported(tmp_path / "compact", torch.device("cpu"), model_from_dict)
    batch, words = random_batch(4, frames=3), torch.tensor(USED)
    with torch.no_grad():
        for model in (trained.model, again.model):
            assert model.clip.token_embedding.weight.dtype == torch.float32
        one, other = (m.encode_video(batch).tokens_BGd for m in (trained.model, again.model))
        torch.testing.assert_close(one, other, atol=2e-2, rtol=2e-2)
        table = again.model.clip.token_embedding.weight
        torch.testing.assert_close(table[words], trained.model.clip.token_embedding.weight[words], atol=1e-3, rtol=1e-3)
        assert table.abs().sum(dim=1).count_nonzero() == len(USED)


def test_what_cannot_be_compact_is_told(tmp_path):
    whole = TrainedModel(tiny_model(lm_vocab="full"), torch.device("cpu"), 32, {})
    with pytest.raises(ValueError, match="no vocabulary of its own"):
        export_model(whole, ABILITIES, None, tmp_path / "out", compact=True)
    large = TrainedModel(tiny_model(), torch.device("cpu"), 32, {})
    with torch.no_grad():
        large.model.match_head.bias[0] = 1e6
    with pytest.raises(ValueError, match="match_head.bias holds values beyond half precision"):
        export_model(large, ABILITIES, None, tmp_path / "out", compact=True)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("ids", [[0, 1], [-1, 5], [5, 49408]])
def test_ids_that_number_no_rows_are_told(ids):
    state = {TABLE: torch.zeros(2 if ids != [0, 1] else 3, 4), TOKEN_IDS: torch.tensor(ids)}
    with pytest.raises(ValueError, match="does not number the rows"):
        restored(state)


def test_a_training_starts_from_the_towers_of_a_compact_one(trained, tmp_path):
    export_model(trained, ABILITIES, None, tmp_path / "out", compact=True)
    other = tiny_model(seed=5)
    assert "CLIP towers start from" in initialize(other, str(tmp_path / "out" / "model.safetensors"))
    for name, weight in trained.model.clip.state_dict().items():
        if name != "token_embedding.weight":
            torch.testing.assert_close(other.clip.state_dict()[name], weight, atol=1e-3, rtol=1e-3)
    with pytest.raises(ValueError, match="choose the architecture they were made for|expects|pixels"):
        initialize(other, "small")


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


@pytest.mark.parametrize("trained", ["stoa", pytest.param("stgt", marks=pytest.mark.slow)], indirect=True)
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
