"""Damaged videos get one verdict from check, both stores, detect and training. More of them: ``make fuzz``."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from mutations import base_videos, mutated

from stoa.data.boxes import ClipShape
from stoa.data.clips import FileClips
from stoa.data.dataset import ClipDataset
from stoa.data.ledger import Ledger
from stoa.data.sampler import SampleKey
from stoa.data.shards import ShardClips
from stoa.detections import Detections
from stoa.manifest import Caption, ClipRow, read_manifest, write_manifest
from stoa.prepare.adapters import open_annotations
from stoa.prepare.check import CheckConfig, check
from stoa.prepare.config import PrepareConfig, StoreConfig
from stoa.prepare.detections import run as detect_run
from stoa.prepare.detections.config import DetectorConfig
from stoa.prepare.pipeline import prepare


def records(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


class NoDetector:
    """Detects nothing, on any frame."""

    def __init__(self, config: DetectorConfig) -> None:
        self.class_names = ["thing"]

    def __call__(self, frames_THWC: np.ndarray, times_seconds: np.ndarray) -> Detections:
        none = np.zeros(0, np.int64)
        size = np.array(frames_THWC.shape[2:0:-1])
        return Detections(times_seconds, none, np.zeros((0, 4), np.float32), none, np.zeros(0, np.float32), size)


def verdicts(manifest: Path, out: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, dict[str, str]]:
    """Of each job the bad clips and why. Jobs that write are called twice: what met a bad clip can be finished."""
    rows = read_manifest(manifest)
    found: dict[str, dict[str, str]] = {name: {} for name in ("check", "frames", "video", "detect", "train")}
    check(str(manifest), CheckConfig(ledger=str(out / "check.jsonl")), lambda line: None)
    for line in records(out / "check.jsonl"):
        if line["error"] is not None:
            found["check"] |= {
                row.id: line["error"] for row in rows if row.video == line["path"] and line["clip"] in (None, row.id)
            }
    config = PrepareConfig(
        out=str(out / "out"),
        videos=str(manifest.parent),
        stores=("frames", "video"),
        spacy=None,
        store=StoreConfig(side=48),
    )
    for _ in range(2):
        annotations = open_annotations("manifest", manifest)
        prepare(config, annotations, manifest.parent, engine="local", workers=1, say=lambda line: None)
    for line in records(out / "out" / "ledger.jsonl"):
        if line["event"] == "failed":
            found[line["store"]][line["clip"]] = line["kind"]
        elif line["event"] == "skipped":
            found["frames"][line["clip"]] = found["video"][line["clip"]] = "missing"
    monkeypatch.setattr(detect_run, "Detector", NoDetector)
    for _ in range(2):
        detect_run.detect_manifest(DetectorConfig(), manifest, out / "boxes", say=lambda line: None)
    for line in records(out / "boxes" / "ledger.jsonl"):
        if line["event"] == "skipped":
            found["detect"][line["clip"]] = line["reason"]
    ledger = Ledger(out / "run" / "ledger.jsonl")
    data = ClipDataset(
        FileClips(rows, manifest.parent),
        ClipShape(num_frames=3, side=32, max_tokens=12, max_boxes=2),
        seed=0,
        ledger=ledger,
    )
    for number, row in enumerate(rows):
        if data[SampleKey(number, 0, 0)].replaced:
            found["train"][row.id] = "replaced"
    for store in ("frames", "video"):
        assert ShardClips(str(out / "out" / store), None).ids() == [
            row.id for row in rows if row.id not in found[store]
        ]
    return found


def require_one(found: dict[str, dict[str, str]]) -> dict[str, str]:
    """The verdicts by the check, which are those of all."""
    for name, bad in found.items():
        assert bad.keys() == found["check"].keys(), (name, bad.keys() ^ found["check"].keys())
    assert found["check"] == found["frames"] == found["video"]
    return found["check"]


@pytest.mark.slow
def test_damaged_videos(tmp_path, monkeypatch):
    (tmp_path / "sound").mkdir()
    bases = base_videos(tmp_path / "sound")
    rows = []
    for number in range(60):
        suffix, how, content = mutated(bases, number, seed=7)
        (tmp_path / f"{number}{suffix}").write_bytes(content)
        rows.append(ClipRow(f"{number} {how}", f"{number}{suffix}", (Caption("noise"),)))
    rows += [ClipRow(f"{name} whole", f"sound/{path.name}", (Caption("noise"),)) for name, path in bases.items()]
    rows += [
        ClipRow(f"{name} part", f"sound/{path.name}", (Caption("noise"),), start_seconds=0.3, end_seconds=0.6)
        for name, path in bases.items()
    ]
    write_manifest(tmp_path / "m.jsonl", rows)
    bad = require_one(verdicts(tmp_path / "m.jsonl", tmp_path / "made", monkeypatch))
    assert len(bad) >= 15 and not any(clip.endswith(("whole", "part", "intact")) for clip in bad)


def test_the_shared_cases(real_data, tmp_path, monkeypatch):
    cases = real_data.parent / "cases"
    if not cases.is_dir():
        pytest.skip("no shared cases")
    wanted = {
        "duplicate_pts/dup1.mkv": None,
        "duplicate_pts/plain.mp4": None,
        "size_change/size_change.ts": "size",
        "concatenated/concat.ts": "time",
        "concatenated/c1.ts": None,
        "orientation/rot90.mp4": None,
        "orientation/rot90.mkv": None,
        "two_streams/two.mp4": None,
        "not_video/anim.gif": None,
        "not_video/still.jpg": None,
        "not_video/noext": None,
    }
    rows = []
    for name in wanted:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        shutil.copy(cases / name, tmp_path / name)
        rows.append(ClipRow(name * 20, name, (Caption("x"),)))
    rows += [
        ClipRow("大" * 41, "two_streams/two.mp4", (Caption("x"),)),
        ClipRow("a\0b/" * 99, "gone.mp4", (Caption("x"),)),
    ]
    write_manifest(tmp_path / "m.jsonl", rows)
    bad = require_one(verdicts(tmp_path / "m.jsonl", tmp_path / "made", monkeypatch))
    assert bad == {name * 20: kind for name, kind in wanted.items() if kind} | {"a\0b/" * 99: "missing"}
