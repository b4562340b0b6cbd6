"""What stops a run is one line, and nothing trained is lost; what need not stop it does not."""

import json
import math
import os
from pathlib import Path

import numpy as np
import pytest
from factories import gray_frames, write_video
from launch import WORKER, finish

from stoa.detections import Detections
from stoa.training.metrics import read_metrics


def manifest_with(data_set: Path, folder: Path, change) -> Path:
    """A copy of the training rows, changed, with paths that still hold."""
    rows = [json.loads(line) for line in (data_set / "manifest.jsonl").read_text().splitlines()]
    rows = [row for row in rows if row["split"] == "train"]
    for row in rows:
        row["video"] = str(data_set / row["video"])
        row["detections"] = str(data_set / row["detections"])
    change(rows)
    folder.mkdir(parents=True)
    path = folder / "manifest.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.mark.dist
def test_bad_clips_and_captions_do_not_stop_a_run(start, data_set, tmp_path):
    def change(rows):
        whole = Path(rows[2]["video"]).read_bytes()
        (tmp_path / "cut.mp4").write_bytes(whole[: len(whole) // 2])
        (tmp_path / "junk.mp4").write_bytes(b"this is no video")
        rows[0]["video"] = "missing.mp4"
        rows[1]["video"] = str(tmp_path / "junk.mp4")
        rows[2]["video"] = str(tmp_path / "cut.mp4")
        rows[3]["captions"] = [" "]
        rows[4]["captions"] = ["красный круг движется влево"]

    out, err = finish(start(tmp_path / "run", manifest=manifest_with(data_set, tmp_path / "m", change)))
    assert "step 10/10" in out
    assert err.count("non-Latin script") == 1
    events = [json.loads(line) for line in (tmp_path / "run" / "ledger.jsonl").read_text().splitlines()]
    assert {"event": "skipped", "clip": "train_000003", "reason": "empty caption"} in events
    replaced = {e["clip"]: e for e in events if e["event"] == "replaced"}
    assert set(replaced) == {"train_000000", "train_000001", "train_000002"}
    assert "does not exist" in replaced["train_000000"]["reason"]
    assert all(e["path"].endswith(".mp4") and e["replacement"] for e in replaced.values())
    counted = sum(r["replaced_clips"] for r in read_metrics(tmp_path / "run" / "metrics.jsonl"))
    assert counted == sum(e["event"] == "replaced" for e in events)


@pytest.mark.dist
def test_an_error_of_ours_ends_the_process_whatever_its_loaders_do(start, tmp_path):
    program = start(tmp_path / "run", "--data.num_workers", "1", program=(WORKER, "error", "2"))
    _, err = finish(program, code=1)
    assert err.rstrip().endswith("RuntimeError: planted")


@pytest.mark.dist
def test_a_manifest_that_breaks_in_mid_run_loses_nothing(start, data_set, tmp_path):
    """All videos vanish while the run is going: it saves what it has, and goes on when they are back."""
    import shutil

    videos = tmp_path / "m" / "videos"

    def change(rows):
        for row in rows:
            row["video"] = f"videos/{Path(row['video']).name}"

    manifest = manifest_with(data_set, tmp_path / "m", change)
    shutil.copytree(data_set / "videos" / "train", videos)
    run = tmp_path / "run"
    arguments = (
        "--training.max_steps",
        "300",
        "--training.save_every",
        "1000",
        "--data.num_workers",
        "1",
        "--data.cache_gib",
        "0",
    )
    process = start(run, *arguments, manifest=manifest)
    next(line for line in process.lines() if line.startswith("step 5/"))
    videos.rename(videos.with_name("away"))
    _, err = finish(process, code=2)
    assert err.strip().splitlines()[-1].startswith("train.py: error: clip 'train_")
    assert "16 replacements could not be read" in err
    (saved,) = (run / "checkpoints").glob("step-*")
    step = int(saved.name.removeprefix("step-"))
    assert step >= 5
    videos.with_name("away").rename(videos)
    out, _ = finish(start(run, "--training.max_steps", str(step + 1), manifest=manifest))
    assert f"at step {step}" in out
    assert [r["step"] for r in read_metrics(run / "metrics.jsonl")] == list(range(1, step + 2))


@pytest.mark.dist
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--training.max_step", "3"), "unknown option --training.max_step; did you mean --training.max_steps?"),
        (("--data.split", "tests"), "has no usable row with split 'tests' (splits found: ['test', 'train', 'val'])"),
        (
            ("--training.chunk_clips", "8"),
            "chunk_clips is 8 and train_micro_batch_size_per_gpu, which it divides, 8: that",
        ),
        (("--init", "absent.pt"), "--init 'absent.pt' is neither a file nor a pretrained tag of stoa-tiny"),
    ],
)
def test_a_mistake_is_one_line(start, tmp_path, arguments, message):
    _, err = finish(start(tmp_path / "run", *arguments), code=2)
    last = err.strip().splitlines()[-1]
    assert last.startswith("train.py: error: ")
    assert message in last
    assert "Traceback" not in err
    assert not (tmp_path / "run" / "checkpoints").exists()


def write_boxes(path: Path, labels: list[int], frame_index: list[int]) -> str:
    boxes = np.tile(np.array([[4, 4, 20, 20]], dtype=np.float32), (len(labels), 1))
    Detections(
        frame_times_seconds=np.array([0.0, 0.3, 0.6]),
        frame_index=np.array(frame_index, dtype=np.int64),
        boxes=boxes,
        labels=np.array(labels, dtype=np.int64),
        scores=np.full(len(labels), 0.5, dtype=np.float32),
        size_wh=np.array([32, 32]),
    ).save(path)
    return str(path)


@pytest.mark.dist
def test_odd_boxes_and_captions_do_not_stop_a_run(start, data_set, tmp_path):
    """No box at all, classes far outside any vocabulary, more classes than trajectories, words beyond L, no words."""

    def change(rows):
        for row in rows[::4]:
            row["detections"] = write_boxes(tmp_path / f"{row['id']}a.npz", [], [])
        for row in rows[1::4]:
            labels = [10**9 + i for i in range(12)]
            row["detections"] = write_boxes(tmp_path / f"{row['id']}b.npz", labels, [i % 3 for i in range(12)])
        for row in rows[2::4]:
            del row["detections"]
            text = "a red circle moves " * 30
            row["captions"] = [{"text": text, "nouns": [[6, 12], [500, 506]], "verbs": [[13, 18]]}]
        for row in rows[3::4]:
            row["captions"] = ["..."]

    manifest = manifest_with(data_set, tmp_path / "m", change)
    out, _ = finish(start(tmp_path / "run", manifest=manifest))
    assert "step 10/10" in out and "none of the clips has boxes" not in out
    for record in read_metrics(tmp_path / "run" / "metrics.jsonl"):
        assert all(math.isfinite(value) for value in record.values())
        assert "ota_match_accuracy" not in record or record["ota_match_accuracy"] <= 1


@pytest.mark.dist
def test_objects_without_any_boxes_are_told(start, data_set, tmp_path):
    def change(rows):
        for row in rows:
            row.pop("detections", None)

    manifest = manifest_with(data_set, tmp_path / "m", change)
    out, _ = finish(start(tmp_path / "run", "--training.max_steps", "1", manifest=manifest))
    assert "none of the clips has boxes: trajectories stay empty" in out


@pytest.mark.slow
@pytest.mark.dist
def test_a_clip_of_one_frame_trains(start, data_set, tmp_path):
    still = write_video(tmp_path / "still.mp4", gray_frames(1, height=32, width=32))

    def change(rows):
        for row in rows:
            row["video"] = str(still)

    manifest = manifest_with(data_set, tmp_path / "m", change)
    finish(start(tmp_path / "run", "--training.max_steps", "2", manifest=manifest))
    assert [r["replaced_clips"] for r in read_metrics(tmp_path / "run" / "metrics.jsonl")] == [0, 0]


@pytest.mark.dist
@pytest.mark.parametrize("processes", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_too_many_bad_clips_end_a_run_that_is_saved(start, data_set, tmp_path, processes):
    """A third of them, pipes among these, which nobody writes to."""
    os.mkfifo(tmp_path / "pipe")

    def change(rows):
        for row in rows[::6]:
            row["video"] = str(tmp_path / "pipe")
        for row in rows[3::6]:
            row["detections"] = str(tmp_path / "pipe")

    run, manifest = tmp_path / "run", manifest_with(data_set, tmp_path / "m", change)
    arguments = ("--training.save_every", "1000", "--training.max_steps", "40")
    out, err = finish(
        start(run, *arguments, manifest=manifest, processes=processes), code=2 if processes == 1 else None
    )
    said = next(line for line in err.splitlines() if line.startswith("train.py: ") and "the worst: clip" in line)
    assert "clips read could not be used, which data.max_bad_share 0.1 does not allow" in said
    assert "times) " in said and "it is not a file" in said
    (saved,) = (run / "checkpoints").glob("step-*")
    step = int(saved.name.removeprefix("step-"))
    assert 3 <= step < 20
    more = ("--data.max_bad_share", "1", "--training.max_steps", str(step + 2))
    out, _ = finish(start(run, *more, manifest=manifest, processes=processes))
    assert f"at step {step}" in out
