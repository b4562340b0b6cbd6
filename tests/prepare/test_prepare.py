"""`stoa prepare`: stores are right, whole, the same however they were made, and survive what videos and disks do."""

import json
import os
import resource
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from factories import gray_frames, gray_number, write_video
from webdataset.tariterators import group_by_keys, tar_file_expander

from stoa.data.decoding.cpu import decode_clip
from stoa.data.ledger import Ledger
from stoa.data.loader import open_clips
from stoa.data.media import FramePack, decode_pack
from stoa.data.shards import ShardClips
from stoa.detections import Detections
from stoa.files import sha256
from stoa.manifest import Caption, ClipRow, write_manifest
from stoa.prepare.adapters import open_annotations
from stoa.prepare.config import DetectionsConfig, PrepareConfig, StoreConfig
from stoa.prepare.detections import FilterConfig
from stoa.prepare.pipeline import prepare
from stoa.synthetic import SynthConfig, build_data_set

STORES = ("frames", "video")


@pytest.fixture(scope="session")
def shapes(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("shapes") / "set"
    config = SynthConfig(num_train=14, num_val=2, num_test=4, num_galleries=1, size=64, seconds=1.0)
    build_data_set(config, folder, say=lambda line: None)
    return folder


def made(source: Path, out: Path, *, say=lambda line: None, engine="local", workers=1, **changes) -> Path:
    values = {"out": str(out), "videos": str(source), "spacy": None, "stores": STORES, "timeout_seconds": 60.0}
    values |= {"store": StoreConfig(clips_per_shard=6, frames=8)}
    manifest = source / "manifest.jsonl"
    config = PrepareConfig(**{**values, **changes})
    prepare(config, open_annotations("manifest", manifest), source, engine=engine, workers=workers, say=say)
    return out


@pytest.fixture(scope="session")
def prepared(shapes, tmp_path_factory) -> Path:
    return made(shapes, tmp_path_factory.mktemp("prepared") / "out")


def rows_of(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "manifest.jsonl").read_text().splitlines()]


def ledger(out: Path) -> list[dict]:
    return [json.loads(line) for line in (out / "ledger.jsonl").read_text().splitlines()]


def contents(out: Path) -> dict[str, str]:
    return {str(p.relative_to(out)): sha256(p) for p in sorted(out.rglob("*")) if p.is_file() and p.suffix != ".html"}


@pytest.mark.parametrize("kind", STORES)
def test_a_store_holds_the_clips(shapes, prepared, kind):
    rows = [row for row in rows_of(shapes) if row["split"] == "train"]
    clips = ShardClips(str(prepared / kind), "train")
    assert len(clips) == len(rows) == 14
    for number, row in enumerate(rows):
        clip = clips.place(number).read()
        assert clip.row == clips.row(number)
        assert (clip.row.id, clip.row.captions[0].text) == (row["id"], row["captions"][0]["text"])
        assert [list(span) for span in clip.row.captions[0].nouns] == row["captions"][0]["nouns"]
        original = decode_clip(str(shapes / row["video"]), 4)
        stored = decode_pack(clip.media, 4) if kind == "frames" else decode_clip(clip.media.video, 4)
        # 10 frames in a second, of which a pack of 8 has one every eighth: off by a sixteenth and a frame at most.
        limit = 1e-3 if kind == "video" else 1 / 16 + 0.1
        assert np.abs(stored.times_seconds - original.times_seconds).max() <= limit
        assert np.abs(stored.frames_THWC.astype(int) - original.frames_THWC).mean() < 12
        boxes = Detections.load(shapes / row["detections"])
        np.testing.assert_array_equal(clip.detections.boxes, boxes.boxes)
        np.testing.assert_array_equal(clip.detections.true_labels, boxes.true_labels)
    assert json.loads((prepared / "labels.json").read_text()) == json.loads((shapes / "labels.json").read_text())


def test_webdataset_reads_the_shards(prepared):
    samples = []
    for shard in sorted((prepared / "frames").glob("*.tar")):
        with open(shard, "rb") as stream:
            samples += group_by_keys(tar_file_expander([{"url": str(shard), "stream": stream}]))
    assert len(samples) == 20
    clips = ShardClips(str(prepared / "frames"), None)
    for number, sample in enumerate(samples):
        clip = clips.place(number).read()
        assert json.loads(sample["json"])["row"]["id"] == clip.row.id
        assert [sample[key] for key in sorted(sample) if key.endswith(".jpg")] == clip.media.jpegs


def test_the_index_says_what_the_files_hold(prepared):
    for kind in STORES:
        store = json.loads((prepared / kind / "store.json").read_text())
        assert store["clips"] == 20
        assert store["splits"] == ["train", "val", "test"]
        assert [shard["clips"] for shard in store["shards"]] == [6, 6, 6, 2]
        for shard in store["shards"]:
            assert sha256(prepared / kind / shard["name"]) == shard["sha256"]
        assert len(ShardClips(str(prepared / kind), "test")) == 4


@pytest.mark.parametrize("engine", ["local", "ray"])
def test_calling_again_changes_nothing(shapes, prepared, engine):
    before, lines = contents(prepared), []
    made(shapes, prepared, say=lines.append, engine=engine, workers=2)
    assert contents(prepared) == before
    assert "frames: 4 of 4 shards are there already" in lines


@pytest.mark.parametrize("engine", ["local", pytest.param("ray", marks=pytest.mark.slow)])
def test_workers_and_engines_make_the_same_stores(shapes, prepared, tmp_path, engine, monkeypatch):
    monkeypatch.setenv("RAY_TMPDIR", "/tmp")  # sockets have short paths
    made(shapes, tmp_path / "out", engine=engine, workers=2)
    mine, theirs = contents(tmp_path / "out"), contents(prepared)
    assert {name: mine[name] for name in mine if name.endswith((".tar", ".npy"))} == {
        name: theirs[name] for name in theirs if name.endswith((".tar", ".npy"))
    }


def command(source: Path, out: Path, *arguments: str) -> list[str]:
    return [
        *(sys.executable, "-m", "stoa.cli", "prepare", "--annotations", str(source / "manifest.jsonl")),
        *("--videos", str(source), "--out", str(out), "--spacy", "null", "--stores", '["video"]'),
        *("--store.clips_per_shard", "2", "--timeout_seconds", "60", *arguments),
    ]


@pytest.mark.slow
def test_killed_at_any_time_it_goes_on(shapes, prepared, tmp_path):
    out = tmp_path / "out"
    for shards in (1, 5):
        process = subprocess.Popen(command(shapes, out), stdout=subprocess.DEVNULL, start_new_session=True)
        while len(list((out / "video").glob("*.json"))) < shards and process.poll() is None:
            time.sleep(0.01)
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        assert not (out / "video" / "store.json").exists()
    finished = subprocess.run(command(shapes, out), capture_output=True, text=True, check=True)
    assert "shards are there already" in finished.stdout
    assert not list(out.rglob("*.tmp"))
    straight = ShardClips(str(prepared / "video"), None)
    resumed = ShardClips(str(out / "video"), None)
    assert len(resumed) == len(straight) == 20
    assert all(resumed.place(i).read().media == straight.place(i).read().media for i in range(20))


@pytest.mark.slow
def test_a_disk_that_fills_up_stops_it_cleanly(shapes, tmp_path):
    def small_files():
        resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, resource.RLIM_INFINITY))

    out = tmp_path / "out"
    failed = subprocess.run(command(shapes, out), capture_output=True, text=True, preexec_fn=small_files)
    assert failed.returncode == 2
    (line,) = failed.stderr.strip().splitlines()
    assert "File too large" in line
    assert "call again" in line
    assert not list(out.rglob("*.tar*"))
    subprocess.run(command(shapes, out), check=True, capture_output=True)
    assert len(ShardClips(str(out / "video"), None)) == 20


def test_other_options_need_another_folder(shapes, prepared):
    with pytest.raises(ValueError, match=r"was begun with store .*'side': 256.*'side': 128.*another --out"):
        made(shapes, prepared, store=StoreConfig(clips_per_shard=6, frames=8, side=128))
    assert len(ShardClips(str(prepared / "frames"), None)) == 20


def test_a_part_of_a_file(tmp_path):
    """Frame i of the video is gray level i, at i/10 s; the boxes of frame i lie i pixels from the left."""
    write_video(tmp_path / "v.mp4", gray_frames(20))
    n = 20
    Detections(
        frame_times_seconds=np.arange(n) / 10,
        frame_index=np.arange(n),
        boxes=np.stack([np.arange(n), np.ones(n), np.arange(n) + 20, np.full(n, 20)], axis=1).astype(np.float32),
        labels=np.zeros(n, dtype=np.int64),
        scores=np.ones(n, dtype=np.float32),
        size_wh=np.array([64, 32]),
    ).save(tmp_path / "v.npz")
    row = ClipRow("a", "v.mp4", (Caption("a"),), start_seconds=0.95, end_seconds=1.75, detections="v.npz")
    write_manifest(tmp_path / "manifest.jsonl", [row])
    out = made(tmp_path, tmp_path / "out", store=StoreConfig(frames=12))
    frames, video = (ShardClips(str(out / kind), None).place(0).read() for kind in STORES)
    assert isinstance(frames.media, FramePack)
    assert frames.media.duration_seconds == pytest.approx(0.8)
    assert [gray_number(f) for f in decode_pack(frames.media, 4).frames_THWC] == [10, 12, 14, 16]
    assert [gray_number(f) for f in decode_clip(video.media.video, 4).frames_THWC] == [10, 12, 14, 16]
    assert [gray_number(f) for f in decode_clip(str(tmp_path / "v.mp4"), 4, 0.95, 1.75).frames_THWC] == [10, 12, 14, 16]
    for clip in (frames, video):
        np.testing.assert_allclose(clip.detections.frame_times_seconds[10], 0.05)


def test_uneven_times_survive(tmp_path):
    times = [0.0, 0.1, 0.2, 0.3, 1.0, 1.9]
    write_video(tmp_path / "v.mkv", gray_frames(6), times_seconds=times)
    write_manifest(tmp_path / "manifest.jsonl", [ClipRow("a", "v.mkv", (Caption("a"),), end_seconds=2.0)])
    out = made(tmp_path, tmp_path / "out", store=StoreConfig(frames=12))
    pack, video = (ShardClips(str(out / kind), None).place(0).read().media for kind in STORES)
    assert [gray_number(f) for f in decode_pack(pack, 4).frames_THWC] == [2, 3, 4, 4]
    assert [gray_number(f) for f in decode_clip(video.video, 4).frames_THWC] == [2, 3, 4, 4]
    np.testing.assert_allclose(pack.times_seconds, [0.0, 0.2, 0.3, 1.0, 1.9], atol=1e-3)


def test_rotation_is_done_once_and_for_all(real_data, tmp_path):
    row = ClipRow("a", str(real_data / "videos" / "odd" / "rot_90.mov"), (Caption("a"),))
    write_manifest(tmp_path / "manifest.jsonl", [row])
    out = made(tmp_path, tmp_path / "out")
    upright = decode_clip(row.video, 1).frames_THWC[0]
    height, width = upright.shape[:2]
    assert height > width
    for kind in STORES:
        media = ShardClips(str(out / kind), None).place(0).read().media
        stored = decode_pack(media, 1) if kind == "frames" else decode_clip(media.video, 1)
        assert stored.frames_THWC.shape[1] > stored.frames_THWC.shape[2]
        assert abs(stored.frames_THWC.mean() - upright.mean()) < 3


def test_what_cannot_be_decoded_goes_to_the_ledger(tmp_path, decoder_faults):
    for name in ("good", "crash", "hang", "cut"):
        write_video(tmp_path / f"{name}.mp4", gray_frames(20))
    whole = (tmp_path / "cut.mp4").read_bytes()
    (tmp_path / "cut.mp4").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "empty.mp4").touch()
    (tmp_path / "junk.mp4").write_bytes(b"this is no video" * 100)
    names = ["good", "crash", "hang", "cut", "empty", "junk", "absent"]
    rows = [ClipRow(name, f"{name}.mp4", (Caption("a " * 5000),)) for name in names]
    write_manifest(tmp_path / "manifest.jsonl", [*rows, replace(rows[0], id="late", start_seconds=9.0)])
    lines: list[str] = []
    out = made(tmp_path, tmp_path / "out", timeout_seconds=1.5, stores=("frames",), say=lines.append)
    assert len(ShardClips(str(out / "frames"), None)) == 1
    assert "train: 8 clips, 8 captions; 7 of 8 videos found" in lines
    written = ledger(out)
    kinds = {event["clip"]: event["kind"] for event in written if event["event"] == "failed"}
    assert kinds == {
        **{"crash": "crash", "hang": "hang", "empty": "empty", "junk": "unreadable", "late": "range"},
        "cut": kinds["cut"],
    }
    assert kinds["cut"] in ("truncated", "unreadable")
    assert {e["clip"] for e in written if e["event"] == "skipped"} == {"absent"}
    assert ShardClips(str(out / "frames"), None).left_out == 7
    with pytest.raises(ValueError, match=r"data.together is 2 and .*frames leaves out 7 clip\(s\).*mend these clips"):
        open_clips(str(out / "frames"), None, Ledger(None), together=2)
    page = (out / "summary.html").read_text()
    assert "crashed its process" in page


def test_storage_that_goes_while_videos_are_prepared_is_no_bad_clip(tmp_path):
    (tmp_path / "mount").mkdir()
    for name in ("a", "b"):
        write_video(tmp_path / "mount" / f"{name}.mp4", gray_frames(4))
    write_manifest(tmp_path / "manifest.jsonl", [ClipRow(n, f"mount/{n}.mp4", (Caption("x"),)) for n in ("a", "b")])

    def goes(line: str) -> None:  # at the first line that is said, before shards are made
        if (tmp_path / "mount").exists():
            (tmp_path / "mount").rename(tmp_path / "elsewhere")

    with pytest.raises(OSError, match=r"folder of a video is gone \(.*a.mp4\) while writing to .*what is done stays"):
        made(tmp_path, tmp_path / "out", stores=("frames",), say=goes)
    assert not list((tmp_path / "out" / "frames").iterdir())
    (tmp_path / "elsewhere").rename(tmp_path / "mount")

    def loses_one(line: str) -> None:
        (tmp_path / "mount" / "b.mp4").unlink(missing_ok=True)

    out = made(tmp_path, tmp_path / "out", stores=("frames",), say=loses_one)
    assert len(ShardClips(str(out / "frames"), None)) == 1
    assert [(e["clip"], e["kind"]) for e in ledger(out) if e["event"] == "failed"] == [("b", "missing")]


def test_clips_without_detections_are_told(tmp_path):
    for name in ("a.avi", "b"):
        write_video(tmp_path / f"{name}.mp4", gray_frames(4))
    rows = [ClipRow("a", "a.avi.mp4", (Caption("x"),)), ClipRow("b", "b.mp4", (Caption("x"),))]
    write_manifest(tmp_path / "manifest.jsonl", rows)
    (tmp_path / "train.labelmap.tsv").write_text("cat\n")
    boxes = json.dumps([{"class": "cat", "rect": [1, 1, 9, 9], "conf": 0.9, "feature": ""}])
    path = tmp_path / "train.label.tsv"
    path.write_text(f"a_0\t{boxes}\nodd\t{boxes}\n")
    lines: list[str] = []
    detections = DetectionsConfig(path=str(path), fps=1)
    out = made(tmp_path, tmp_path / "out", stores=("frames",), detections=detections, say=lines.append)
    assert "frames: 1 of 2 clips have detections" in lines
    assert any("1 entries of" in line and "does not match this key" in line for line in lines)
    told = {(event["event"], event["clip"]): event["reason"] for event in ledger(out)}
    assert told.keys() == {("boxes dropped", "odd"), ("no detections", "b")}
    assert "has nothing of use on 'b'" in told["no detections", "b"]

    path.write_text(f"x_0\t{boxes}\n")
    with pytest.raises(ValueError, match=r"none of the 2 clips has detections in .*train.label.tsv; .*ledger.jsonl"):
        made(tmp_path, tmp_path / "other", stores=("frames",), detections=detections)


def boxes_at(path: Path, label: int) -> str:
    """Detections with one box at the beginning."""
    path.parent.mkdir(parents=True)
    Detections(
        frame_times_seconds=np.zeros(1),
        frame_index=np.zeros(1, dtype=np.int64),
        boxes=np.array([[1, 1, 9, 9]], dtype=np.float32),
        labels=np.array([label]),
        scores=np.ones(1, dtype=np.float32),
        size_wh=np.array([64, 32]),
    ).save(path)
    return str(path.relative_to(path.parent.parent))


def test_questions_are_counted_and_their_clips_get_detections_by_id(tmp_path):
    """Of a published set whose clips have no captions: listed, detected elsewhere, then prepared."""
    (tmp_path / "videos").mkdir()
    for name in ("a_1_2", "b_1_2"):
        write_video(tmp_path / "videos" / f"{name}.avi", gray_frames(4))
    (tmp_path / "qa").mkdir()
    (tmp_path / "qa" / "youtube_mapping.txt").write_text("a_1_2 vid1\nb_1_2 vid2\n")
    asked = [{"answer": "cat", "id": i, "question": "what is it?", "video_id": i} for i in (1, 2)]
    (tmp_path / "qa" / "test_qa.json").write_text(json.dumps(asked))
    said: list[str] = []

    def call(out: str, **changes) -> Path:
        values = {"out": str(tmp_path / out), "videos": str(tmp_path / "videos"), "spacy": None}
        annotations = open_annotations("msvd-qa", tmp_path / "qa")
        prepare(PrepareConfig(**values, **changes), annotations, tmp_path, engine="local", workers=1, say=said.append)
        return tmp_path / out

    listed = call("rows", stores=())
    assert {p.name for p in listed.iterdir()} == {"rows.jsonl", "questions.jsonl", "plan.json", "ledger.jsonl"}
    assert "test: 2 clips, 2 questions; 2 of 2 videos found" in said
    assert "test: 2 of the 13,157 published questions" in said

    detected = tmp_path / "detected"
    rows = [json.loads(line) for line in (listed / "rows.jsonl").read_text().splitlines()]
    rows[1]["detections"] = boxes_at(detected / "detections" / "b.npz", 7)
    (detected / "manifest.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (detected / "labels.json").write_text(json.dumps([f"class {i}" for i in range(8)]))
    config = DetectionsConfig(path=str(detected / "manifest.jsonl"))
    out = call("out", detections=config)
    assert "frames: 1 of 2 clips have detections" in said
    clips = ShardClips(str(out / "frames"), "test")
    found = {clips.row(i).id: clips.place(i).read().detections for i in range(2)}
    assert found["a_1_2"] is None and found["b_1_2"].labels.tolist() == [7]
    assert json.loads((out / "labels.json").read_text())[7] == "class 7"
    (told,) = ledger(out)
    assert (told["event"], told["clip"]) == ("no detections", "a_1_2")

    with pytest.raises(ValueError, match=r"none of its 2 rows names detections; pass the manifest.jsonl that"):
        call("other", detections=DetectionsConfig(path=str(listed / "rows.jsonl")))
    with pytest.raises(ValueError, match="was begun with other clips, captions or boxes than this call has"):
        rows[0]["detections"] = rows[1]["detections"]
        (detected / "manifest.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        call("out", detections=config)


@pytest.mark.parametrize("path", [None, "detected/manifest.jsonl"])
def test_options_for_published_detections_are_not_ignored(path):
    with pytest.raises(ValueError, match="detections.fps is 5.0 and detections.path .*; it is for published files"):
        DetectionsConfig(path=path, fps=5.0)
    with pytest.raises(ValueError, match="detections.filter is .*max_boxes=3"):
        DetectionsConfig(path=path, filter=FilterConfig(max_boxes=3))


@pytest.mark.parametrize("boxes", [True, False])
def test_a_store_knows_whether_it_has_boxes(prepared, tmp_path, boxes):
    if not boxes:
        write_video(tmp_path / "a.mp4", gray_frames(4))
        write_manifest(tmp_path / "manifest.jsonl", [ClipRow("a", "a.mp4", (Caption("x"),))])
    out = prepared if boxes else made(tmp_path, tmp_path / "out", stores=("frames",))
    assert ShardClips(str(out / "frames"), None).has_boxes() is boxes


def test_clips_without_captions_are_counted_where_none_is_left(tmp_path):
    write_video(tmp_path / "a.mp4", gray_frames(4))
    write_manifest(tmp_path / "manifest.jsonl", [ClipRow("a", "a.mp4", ())])
    with pytest.raises(ValueError, match=r"none of the clips can be used \(train: 1 clips without a caption dropped\)"):
        made(tmp_path, tmp_path / "out")


def test_no_video_at_all_is_one_clear_error(shapes, tmp_path):
    (tmp_path / "elsewhere").mkdir()
    manifest = open_annotations("manifest", shapes / "manifest.jsonl")
    config = PrepareConfig(out=str(tmp_path / "out"), videos=str(tmp_path / "elsewhere"), spacy=None)
    with pytest.raises(ValueError, match=r"none of the clips can be used \(train: 14 videos missing; .*in .*elsewhere"):
        prepare(config, manifest, shapes, engine="local", workers=1, say=lambda line: None)


def test_the_summary_stands_alone(prepared):
    page = (prepared / "summary.html").read_text()
    assert page.count("<svg") == 24
    assert page.count("<rect") > 24
    assert "http" not in page
    assert "train: 14 clips" in page
