"""The launch command on real videos of many kinds, broken ones among them."""

import json

import pytest
from launch import finish

from stoa.training.metrics import read_metrics


@pytest.mark.slow
@pytest.mark.dist
def test_training_on_real_clips(start, real_data, tmp_path):
    clips = sorted((real_data / "videos" / "action").iterdir()) + sorted((real_data / "videos" / "odd").iterdir())
    manifest = tmp_path / "manifest.jsonl"
    rows = [{"id": clip.name, "video": str(clip), "caption": clip.stem.replace("_", " ")} for clip in clips]
    manifest.write_text("".join(json.dumps(row) + "\n" for row in rows))
    run = tmp_path / "run"
    steps = len(clips) // 8  # one epoch
    settings = ["--training.max_steps", str(steps), "--data.num_workers", "2", "--data.decoder", "auto"]
    finish(start(run, *settings, manifest=manifest))
    assert len(read_metrics(run / "metrics.jsonl")) == steps
    events = [json.loads(line) for line in (run / "ledger.jsonl").read_text().splitlines()]
    replaced = {e["clip"] for e in events if e["event"] == "replaced"}
    assert replaced <= {"chunk_out_of_range.mp4", "zero_bytes.webm", "invalid_nalu.mp4"}
    assert any(e["event"] == "fallback" and e["clip"] == "av1.mkv" for e in events)
