"""Captions of videos, from model to report."""

import json

import pytest
import torch
from factories import tiny_config

from stoa.cli import main
from stoa.data.text import used_token_ids
from stoa.manifest import read_manifest
from stoa.models.video_language import VideoLanguageModel
from stoa.tasks.captioning import caption_videos
from stoa.tasks.config import EvaluationConfig, GenerationConfig
from stoa.tasks.evaluation import Abilities, evaluate, open_split, score_file
from stoa.tasks.report import format_report, write_predictions, write_report
from stoa.tasks.trained import TrainedModel
from stoa.tasks.videos import VideoReader

ABILITIES = Abilities("one_pass", "end", None)


@pytest.fixture(scope="module")
def trained(shapes) -> TrainedModel:
    torch.manual_seed(0)
    texts = [c for row in read_manifest(shapes / "manifest.jsonl") for c in row.captions]
    model = VideoLanguageModel(tiny_config(num_frames=3, max_tokens=16), used_token_ids=used_token_ids(texts)).eval()
    return TrainedModel(model, torch.device("cpu"), 32, {"checkpoint": "none"})


@pytest.mark.slow  # METEOR takes 15 s to start
def test_a_report(trained, shapes, tmp_path):
    manifest = shapes / "manifest.jsonl"
    config = EvaluationConfig(manifest=str(manifest), generation=GenerationConfig(beams=2), batch_size=5)
    result = evaluate("captioning", trained, ABILITIES, config)
    videos = VideoReader(open_split(str(manifest), "test"), trained.model.config, trained.side, batch_size=1)
    assert result.predictions == caption_videos(trained, videos, config.generation, "one_pass")
    scores = result.report["captioning"]
    assert scores.num_clips == 12 and result.headline == scores.cider
    assert (result.report["protocol"]["beams"], result.report["protocol"]["length penalty"]) == (2, 1.0)
    assert "(x 100, 12 clips)" in format_report(result.report)
    write_report(result.report, tmp_path / "r.json")
    assert json.loads((tmp_path / "r.json").read_text())["captioning"]["cider"] == scores.cider


def test_a_model_that_never_learned_to_write_is_refused(trained, shapes):
    config = EvaluationConfig(manifest=str(shapes / "manifest.jsonl"))
    with pytest.raises(ValueError, match=r"--task is captioning, and --run was never trained to say words \(plm; its"):
        evaluate("captioning", trained, Abilities("one_pass", "end", None, ["vtc", "vtm"]), config)


@pytest.mark.slow  # METEOR takes 15 s to start
def test_the_references_themselves_score_full_marks_and_other_clips_are_named(shapes):
    config = EvaluationConfig(manifest=str(shapes / "manifest.jsonl"))
    said = {row.id: row.captions[0].text for row in read_manifest(shapes / "manifest.jsonl", split="test")}
    report = score_file("captioning", said, config)
    assert report["captioning"].bleu4 == pytest.approx(1)
    assert report["protocol"]["split"] == "test" and report["protocol"]["metrics"] == "pycocoevalcap, PTB tokenizer"
    assert len(report["protocol"]["split sha256"]) == len(report["protocol"]["predictions sha256"]) == 64
    first = next(iter(said))
    with pytest.raises(ValueError, match=f"1 clips have no prediction: {first}"):
        score_file("captioning", {k: v for k, v in said.items() if k != first}, config)
    with pytest.raises(ValueError, match="1 clips have a prediction and no reference: other"):
        score_file("captioning", {**said, "other": "x"}, config)


@pytest.mark.slow
def test_the_command_scores_a_file(shapes, tmp_path, capsys):
    manifest = shapes / "manifest.jsonl"
    write_predictions({row.id: "a star" for row in read_manifest(manifest, split="test")}, tmp_path / "said.jsonl")
    command = ["evaluate", "--predictions", str(tmp_path / "said.jsonl"), "--manifest", str(manifest)]
    assert main(command) == 2
    assert "--task is missing" in capsys.readouterr().err
    assert main([*command, "--task", "captioning", "--compare", "nothing"]) == 2
    assert "--compare is 'nothing'" in capsys.readouterr().err
    assert main([*command, "--task", "captioning", "--compare", "msvd"]) == 2
    assert "what is measured is 12 of 670 published clips (1.8%), " in capsys.readouterr().err
    assert main([*command, "--task", "captioning", "--out", str(tmp_path / "r.json")]) == 0
    out = capsys.readouterr().out
    assert out.startswith("captioning on test: 12 of 12 clips, 12 of 12 captions\n") and "split sha256" in out
    written = json.loads((tmp_path / "r.json").read_text())
    assert written["protocol"]["manifest"] == str(manifest) and written["partial"] is False
    assert written["coverage"]["captions"] == {"seen": 12, "of": 12}
