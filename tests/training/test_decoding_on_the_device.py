"""Training on frame packs that DALI decodes."""

import json

import pytest
from launch import finish

from stoa.prepare.adapters import open_annotations
from stoa.prepare.config import PrepareConfig, StoreConfig
from stoa.prepare.pipeline import prepare
from stoa.training.metrics import read_metrics


@pytest.fixture(scope="module", autouse=True)
def _dali() -> None:
    pytest.importorskip("nvidia.dali", reason="DALI is not installed")


@pytest.mark.slow
@pytest.mark.dist
def test_the_same_losses_whoever_decodes(start, data_set, tmp_path):
    """Frames of the side that the model sees need no resizing, so that not even rounding differs."""
    config = PrepareConfig(out=str(tmp_path / "out"), videos=str(data_set), spacy=None, store=StoreConfig(frames=6))
    annotations = open_annotations("manifest", data_set / "manifest.jsonl")
    prepare(config, annotations, data_set, engine="local", workers=1, say=lambda line: None)
    losses = {}
    for decoder, workers in (("dali", "2"), ("auto", "0")):
        run = tmp_path / decoder
        arguments = ("--data.decoder", decoder, "--data.num_workers", workers, "--training.max_steps", "20")
        arguments += ("--training.save_every", "20")
        out, _ = finish(start(run, *arguments, manifest=tmp_path / "out" / "frames"))
        assert "step 20/20" in out
        records = read_metrics(run / "metrics.jsonl")
        assert [r["replaced_clips"] for r in records] == [0] * 20
        losses[decoder] = [r["loss"] for r in records]
    assert losses["dali"] == losses["auto"]


@pytest.mark.dist
def test_h264_without_a_gpu_is_one_line_before_any_step(start, tmp_path, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    _, err = finish(start(tmp_path / "run", "--data.decoder", "dali"), code=2)
    assert (
        err.strip()
        .splitlines()[-1]
        .startswith("train.py: error: data.decoder is 'dali', which decodes no h264 without")
    )
    ledger = tmp_path / "run" / "ledger.jsonl"
    events = [json.loads(line)["event"] for line in ledger.read_text().splitlines()] if ledger.is_file() else []
    assert "replaced" not in events
