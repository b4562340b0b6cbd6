"""A detector with random weights over small videos, through the ``stoa detect`` command."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision
from factories import gray_frames, write_video

from stoa.cli import main
from stoa.detections import Detections
from stoa.manifest import Caption, ClipRow, read_manifest, write_manifest
from stoa.prepare.detections import FilterConfig
from stoa.prepare.detections import run as detect_run
from stoa.prepare.detections.config import DetectorConfig
from stoa.prepare.detections.detector import Detector
from stoa.prepare.detections.run import detect_manifest

MODEL = "fasterrcnn_mobilenet_v3_large_320_fpn"
NAMES = ["cat", "dog", "tree"]


@pytest.fixture(scope="module")
def weights(tmp_path_factory) -> Path:
    """Random weights of three classes and the background, and their names beside them."""
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("weights")
    model = torchvision.models.get_model(MODEL, weights=None, weights_backbone=None, num_classes=4)
    torch.save(model.state_dict(), folder / "w.pt")
    (folder / "names.json").write_text(json.dumps(NAMES))
    return folder / "w.pt"


def config(weights: Path, **changes) -> DetectorConfig:
    values = {"model": MODEL, "weights": str(weights), "labels": str(weights.parent / "names.json")}
    sizes = {"num_frames": 2, "min_size": 64, "max_size": 96, "device": "cpu"}
    return DetectorConfig(**{**values, **sizes, **changes})


@pytest.fixture
def manifest(tmp_path) -> Path:
    root = tmp_path / "data"
    (root / "videos").mkdir(parents=True)
    rng = np.random.default_rng(0)
    write_video(root / "videos" / "a.mp4", [rng.integers(0, 255, (64, 96, 3), dtype=np.uint8) for _ in range(10)])
    write_video(root / "videos" / "b.mp4", gray_frames(10))
    (root / "videos" / "bad.mp4").write_bytes(b"no video")
    rows = [
        ClipRow("a", "videos/a.mp4", (Caption("a"),)),
        ClipRow("x/bad?", "videos/bad.mp4", (Caption("b"),), detections="old.npz"),
        ClipRow("x/part", "videos/b.mp4", (Caption("c"),), "test", 0.5, 1.0),
    ]
    write_manifest(root / "m.jsonl", rows)
    return root / "m.jsonl"


def contents(out: Path) -> dict[str, bytes]:
    return {str(path.relative_to(out)): path.read_bytes() for path in sorted(out.rglob("*")) if path.is_file()}


def command(manifest: Path, out: Path, weights: Path, *more: str) -> None:
    options = {"model": MODEL, "weights": weights, "labels": weights.parent / "names.json", "device": "cpu"}
    sizes = {"num_frames": 2, "min_size": 64, "max_size": 96, "filter.max_boxes": 3}
    given = [f"--{name}={value}" for name, value in {**options, **sizes}.items()]
    assert main(["detect", str(manifest), f"--out={out}", *given, *more]) == 0


def test_the_command(manifest, weights, tmp_path, capsys):
    out = tmp_path / "out" / "boxes"
    command(manifest, out, weights)
    assert json.loads((out / "labels.json").read_text()) == NAMES
    rows = {row.id: row for row in read_manifest(out / "manifest.jsonl")}
    assert list(rows) == ["a", "x/bad?", "x/part"] and rows["x/bad?"].detections is None
    assert rows["x/part"].start_seconds == 0.5 and rows["x/part"].split == "test"
    for name, times, size_wh in [("a", [0.2, 0.7], [96, 64]), ("x/part", [0.6, 0.8], [64, 32])]:
        assert (out / rows[name].video).is_file()
        found = Detections.load(out / rows[name].detections)
        assert found.frame_times_seconds.tolist() == pytest.approx(times) and found.size_wh.tolist() == size_wh
        assert set(found.labels) <= {0, 1, 2} and np.bincount(found.frame_index).max() == 3
        assert (found.boxes[:, 2:] <= found.size_wh).all() and (
            np.diff(found.scores[found.frame_index == 0]) <= 0
        ).all()
    records = [json.loads(line) for line in (out / "ledger.jsonl").read_text().splitlines()]
    assert [(r["event"], r["clip"]) for r in records] == [("skipped", "x/bad?")]
    said = capsys.readouterr().out
    assert "detections of 2 clips" in said and "1 clips do not decode" in said and "kept" not in said


def test_clips_that_questions_are_about_need_no_caption_nor_lie_beside_the_rows(manifest, weights, tmp_path):
    rows = [replace(row, captions=(), video=Path(row.video).name) for row in read_manifest(manifest)]
    elsewhere, out = tmp_path / "elsewhere" / "rows.jsonl", tmp_path / "out"
    elsewhere.parent.mkdir()
    write_manifest(elsewhere, rows)
    command(elsewhere, out, weights, f"--videos={manifest.parent / 'videos'}")
    found = read_manifest(out / "manifest.jsonl", uncaptioned=True)
    assert [(row.id, row.captions, row.detections is not None) for row in found] == [
        ("a", (), True),
        ("x/bad?", (), False),
        ("x/part", (), True),
    ]
    assert (out / found[0].video).samefile(manifest.parent / "videos" / "a.mp4")


def test_a_second_run_keeps_what_is_there(manifest, weights, tmp_path, monkeypatch):
    """A run killed midway goes on where it was, and ends as one that was not."""
    detect_manifest(config(weights), manifest, tmp_path / "whole", say=lambda line: None)

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    out = tmp_path / "out"
    with monkeypatch.context() as patch:
        seen = []
        real = detect_run._save
        patch.setattr(detect_run, "_save", lambda *what: killed() if seen else (seen.append(1), real(*what)))
        with pytest.raises(KeyboardInterrupt):
            detect_manifest(config(weights), manifest, out)
    assert len(list(out.rglob("*.npz"))) == 1 and not (out / "manifest.jsonl").exists()
    said = []
    detect_manifest(config(weights), manifest, out, say=said.append)
    assert said[0] == f"{out} already held the detections of 1 clips; they are kept"
    assert "detections of 1 clips" in said[1]
    whole, again = contents(tmp_path / "whole"), contents(out)
    for name in whole:
        if name.endswith(".npz"):
            one, two = (Detections.load(folder / name) for folder in (tmp_path / "whole", out))
            np.testing.assert_array_equal(one.boxes, two.boxes)
        elif name != "ledger.jsonl":
            assert whole[name] == again[name]
    assert list(whole) == list(again)


def test_splits_one_after_the_other_and_a_part_that_has_changed(manifest, weights, tmp_path):
    out, rows = tmp_path / "out", read_manifest(manifest)
    for split in ("test", "train"):
        detect_manifest(config(weights), manifest, out, split=split, say=lambda line: None)
        found = {row.id: row.detections for row in read_manifest(out / "manifest.jsonl")}
        assert [id for id, path in found.items() if path] == (["x/part"] if split == "test" else ["a", "x/part"])
    write_manifest(manifest, [*rows[:2], replace(rows[2], start_seconds=0.0)])
    said = []
    detect_manifest(config(weights), manifest, out, say=said.append)
    assert said[0] == f"{out} already held the detections of 1 clips; they are kept"
    (part,) = (row for row in read_manifest(out / "manifest.jsonl") if row.id == "x/part")
    assert part.detections != found["x/part"]
    assert Detections.load(out / part.detections).frame_times_seconds.min() < 0.5


def test_a_file_that_crashes_its_decoder_is_one_of_the_ledger(manifest, weights, tmp_path, decoder_faults):
    (manifest.parent / "videos" / "a.mp4").rename(manifest.parent / "videos" / "crash.mp4")
    rows = read_manifest(manifest)
    write_manifest(manifest, [replace(rows[0], video="videos/crash.mp4"), rows[2]])
    detect_manifest(config(weights), manifest, tmp_path / "out", say=lambda line: None)
    (record,) = [json.loads(line) for line in (tmp_path / "out" / "ledger.jsonl").read_text().splitlines()]
    assert record["clip"] == "a" and "crashed its process" in record["reason"]


def test_other_settings_do_not_mix(manifest, weights, tmp_path):
    detect_manifest(config(weights), manifest, tmp_path / "out", say=lambda line: None)
    for changes, message in [
        ({"num_frames": 3}, "made with num_frames 2, but num_frames 3 is asked for"),
        ({"filter": FilterConfig(max_boxes=4)}, "made with filter"),
    ]:
        with pytest.raises(ValueError, match=message):
            detect_manifest(config(weights, **changes), manifest, tmp_path / "out")
    (tmp_path / "out" / "detect.json").unlink()
    with pytest.raises(ValueError, match="holds detections and no detect.json"):
        detect_manifest(config(weights), manifest, tmp_path / "out")


def test_files_of_others_are_not_overwritten(manifest, weights):
    """The manifest least of all."""
    with pytest.raises(ValueError, match="m.jsonl, which is a file; pass a folder"):
        detect_manifest(config(weights), manifest, manifest)
    own = manifest.rename(manifest.with_name("manifest.jsonl"))
    before = contents(own.parent)
    with pytest.raises(ValueError, match="holds manifest.jsonl and no detect.json; pass a new or empty folder"):
        detect_manifest(config(weights), own, own.parent)
    assert contents(own.parent) == before


def test_rotated_and_odd_videos(real_data, weights, tmp_path):
    """Boxes are in pixels of the frame as displayed."""
    files = {"rot_0.mov", "rot_90.mov", "flv.flv", "bt709_fullrange.mp4"}
    rows = [ClipRow(name, f"videos/odd/{name}", (Caption("x"),)) for name in sorted(files)]
    rows = [replace(row, video=str(real_data / row.video)) for row in rows]
    write_manifest(tmp_path / "m.jsonl", rows)
    detect_manifest(config(weights), tmp_path / "m.jsonl", tmp_path / "out", say=lambda line: None)
    found = {row.id: row for row in read_manifest(tmp_path / "out" / "manifest.jsonl")}
    assert all(row.video == found[row.id].video for row in rows)
    sizes = {name: Detections.load(tmp_path / "out" / row.detections).size_wh.tolist() for name, row in found.items()}
    assert set(sizes) == files and sizes["rot_90.mov"] == sizes["rot_0.mov"][::-1]


def test_a_manifest_of_which_nothing_decodes(tmp_path, weights):
    write_manifest(tmp_path / "m.jsonl", [ClipRow("a", "a.mp4", (Caption("a"),))])
    with pytest.raises(ValueError, match="no clip of .*m.jsonl decodes; the first: clip 'a', .*a.mp4: .*not exist"):
        detect_manifest(config(weights), tmp_path / "m.jsonl", tmp_path / "out")


def test_the_detector_is_torchvisions(weights):
    """Boxes, labels without the background and scores as the model itself gives them; a repeated frame is seen once."""
    frames = torch.randint(0, 256, (3, 64, 96, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))
    detector = Detector(config(weights, batch_frames=2, filter=FilterConfig(max_boxes=1000)))
    found = detector(frames.numpy()[[0, 1, 1, 2]], np.array([0.0, 0.5, 0.5, 1.0]))
    model = torchvision.models.get_model(
        MODEL, weights=None, weights_backbone=None, num_classes=4, min_size=64, max_size=96
    )
    model.load_state_dict(torch.load(weights, weights_only=True))
    with torch.inference_mode():
        want = model.eval()(list(frames.permute(0, 3, 1, 2) / 255))
    assert found.frame_times_seconds.tolist() == [0, 0.5, 1]
    for frame in range(3):
        here = found.frame_index == frame
        assert here.sum() == len(want[frame]["labels"]) > 0
        np.testing.assert_allclose(found.boxes[here], want[frame]["boxes"], atol=1e-3)
        np.testing.assert_array_equal(found.labels[here], want[frame]["labels"] - 1)
        np.testing.assert_allclose(found.scores[here], want[frame]["scores"], atol=1e-5)


@pytest.mark.parametrize("model", ["ssdlite320_mobilenet_v3_large", "retinanet_resnet50_fpn_v2", "fcos_resnet50_fpn"])
def test_the_number_of_classes_is_read_from_any_model(model, tmp_path):
    state = torchvision.models.get_model(model, weights=None, weights_backbone=None, num_classes=6).state_dict()
    torch.save(state, tmp_path / "w.pt")
    (tmp_path / "names.txt").write_text("a\nb\nc\nd\ne\n")
    values = {"model": model, "weights": str(tmp_path / "w.pt"), "device": "cpu"}
    detector = Detector(DetectorConfig(**values, labels=str(tmp_path / "names.txt")))
    assert detector.class_names == ["a", "b", "c", "d", "e"]
    with pytest.raises(ValueError, match="have 5 classes and the background, not the 90 of torchvision's; pass labels"):
        Detector(DetectorConfig(**values))


def test_weights_of_torchvisions_own_classes(tmp_path):
    model = torchvision.models.get_model(MODEL, weights=None, weights_backbone=None)
    with torch.no_grad():
        model.roi_heads.box_predictor.cls_score.bias[18] = 30.0  # every box becomes a dog
    torch.save(model.state_dict(), tmp_path / "w.pt")
    detector = Detector(
        DetectorConfig(model=MODEL, weights=str(tmp_path / "w.pt"), min_size=64, max_size=96, device="cpu")
    )
    assert len(detector.class_names) == 80 and "N/A" not in detector.class_names
    found = detector(np.random.default_rng(0).integers(0, 255, (1, 64, 96, 3), dtype=np.uint8), np.zeros(1))
    assert {detector.class_names[label] for label in found.labels} == {"dog"}


def test_wrong_weights_and_options_are_named(weights, tmp_path):
    state = torch.load(weights, weights_only=True)
    key = "roi_heads.box_predictor.cls_score.weight"
    torch.save({**state, "extra.weight": torch.zeros(1)}, tmp_path / "extra.pt")
    torch.save({name: value for name, value in state.items() if name != key}, tmp_path / "less.pt")
    torch.save({"model": state}, tmp_path / "nested.pt")
    torch.save(torch.nn.Linear(2, 2), tmp_path / "module.pt")
    (tmp_path / "cut.pt").write_bytes(weights.read_bytes()[:1000])
    (tmp_path / "two.txt").write_text("a\nb\n")
    for changes, message in [
        ({"weights": tmp_path / "absent.pt"}, "absent.pt do not exist; pass a file with a state_dict"),
        ({"weights": tmp_path / "extra.pt"}, "extra.pt do not fit fasterrcnn.*Unexpected key.*extra.weight"),
        ({"weights": tmp_path / "less.pt"}, "less.pt do not fit fasterrcnn.*cls_score.weight' is missing"),
        ({"weights": tmp_path / "nested.pt"}, "nested.pt hold no state_dict"),
        ({"weights": tmp_path / "module.pt"}, "module.pt: .*expected a state_dict"),
        ({"weights": tmp_path / "cut.pt"}, "cut.pt: .*expected a state_dict"),
        ({"model": "retinanet_resnet50_fpn"}, "do not fit retinanet_resnet50_fpn: .* is missing"),
        ({"labels": str(tmp_path / "two.txt")}, "two.txt have 2 names, but weights .* have 3 classes"),
        ({"model": "fasterrcnn_resnet50"}, "model is 'fasterrcnn_resnet50'; did you mean 'fasterrcnn_resnet50_fpn'"),
        ({"num_frames": 0}, "num_frames is 0; pass 1 or more"),
        ({"device": "gpu"}, "device is 'gpu': .*pass auto, cpu or cuda"),
    ]:
        with pytest.raises(ValueError, match=message):
            Detector(config(**{"weights": weights, **changes}))
    torch.save(
        torchvision.models.get_model(
            "ssdlite320_mobilenet_v3_large", weights=None, weights_backbone=None, num_classes=4
        ).state_dict(),
        tmp_path / "ssd.pt",
    )
    with pytest.raises(ValueError, match="min_size or max_size is given, but ssdlite320_.* always resizes to"):
        Detector(config(tmp_path / "ssd.pt", model="ssdlite320_mobilenet_v3_large", labels=None))


def test_weights_that_cannot_be_downloaded(monkeypatch, tmp_path):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setenv("HTTPS_PROXY", "http://127.0.0.1:9")
    url = r"https://download.pytorch.org/models/fasterrcnn_mobilenet_v3_large_320_fpn-[0-9a-f]+.pth"
    with pytest.raises(ValueError, match=rf"^{url} is not in {tmp_path}/hub/checkpoints and .*; .* --weights FILE"):
        Detector(DetectorConfig(model=MODEL, device="cpu"))
