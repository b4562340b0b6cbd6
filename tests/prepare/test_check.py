"""A check decodes everything, says what is bad and why, and does nothing twice."""

import csv
import http.server
import json
import os
import re
import shutil
import signal
import struct
import subprocess
import sys
import threading
import time
from collections import Counter
from functools import partial
from pathlib import Path

import av
import numpy as np
import pytest
from factories import gray_frames, write_video
from fsspec.implementations.local import LocalFileSystem

from stoa import progress
from stoa.cli import main
from stoa.prepare.adapters import open_annotations
from stoa.prepare.check import CheckConfig, check
from stoa.prepare.config import PrepareConfig, StoreConfig
from stoa.prepare.pipeline import prepare


@pytest.fixture(scope="module")
def sound(tmp_path_factory):
    """A video whose index comes first, as files from the web have it: 40 frames at 10 a second."""
    rng = np.random.default_rng(0)
    noise = [rng.integers(0, 256, (64, 64, 3), dtype=np.uint8) for _ in range(40)]
    folder = tmp_path_factory.mktemp("sound")
    plain = write_video(folder / "plain.mp4", noise, options={"crf": "20", "g": "8"})
    with (
        av.open(str(plain)) as source,
        av.open(str(folder / "sound.mp4"), "w", options={"movflags": "faststart"}) as target,
    ):
        stream = target.add_stream_from_template(source.streams.video[0])
        for packet in source.demux(source.streams.video[0]):
            if packet.dts is not None:
                packet.stream = stream
                target.mux(packet)
    return folder / "sound.mp4"


def run_check(data, ledger, **settings):
    """Whether all is sound, the ledger's lines, and what was said."""
    said = []
    passed = check(str(data), CheckConfig(ledger=str(ledger), **settings), said.append)
    return passed, read_ledger(ledger), said


def read_ledger(path):
    return [json.loads(line) for line in Path(path).read_text().splitlines()]


def errors(lines):
    return {line["path"]: line["error"] for line in lines}


def write_rows(path, *rows):
    path.write_text("".join(json.dumps({"caption": "a dog runs", **row}) + "\n" for row in rows))
    return path


def patched(data, name, offset, value):
    """The file with 4 bytes of its only box of this name replaced, counted from the name."""
    assert data.count(name) == 1
    at = data.index(name) + offset
    return data[:at] + struct.pack(">I", value) + data[at + 4 :]


def write_sound_alone(path):
    with av.open(str(path), "w") as container:
        stream = container.add_stream("aac", rate=16000, layout="mono")
        for start in range(0, 16000, 1024):
            frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
            frame.sample_rate, frame.pts = 16000, start
            container.mux(stream.encode(frame))
        container.mux(stream.encode())


@pytest.mark.slow
def test_real_clips_decode_to_the_last_frame_or_the_ledger_says_why(real_data, tmp_path):
    with open(real_data / "VIDEOS.tsv", newline="") as file:
        known = {row["file"]: row for row in csv.DictReader(file, delimiter="\t")}
    rows = [{"id": name, "video": str(real_data / name)} for name in known]
    passed, lines, _ = run_check(write_rows(tmp_path / "m.jsonl", *rows), tmp_path / "check.jsonl", workers=2)
    assert not passed
    assert len(lines) == len(known) == 58
    bad = {}
    for line in lines:
        name = str(Path(line["path"]).relative_to(real_data))
        expected = known[name]["decoded_frames"]
        assert (line["frames_decoded"] or 0) == (0 if expected == "-" else int(expected)), name
        if line["error"] is None:
            assert line["frames_expected"] == line["frames_decoded"], name
        else:
            bad[Path(name).name] = (line["error"], line["frames_expected"], line["reason"])
    assert bad == {
        "zero_bytes.webm": ("empty", None, "file is empty (0 bytes)"),
        "chunk_out_of_range.mp4": ("unreadable", None, "PyAV: Invalid data found when processing input"),
        "invalid_nalu.mp4": ("corrupt", 30, "29 of 30 frames decode"),
    }


def test_planted_faults(tmp_path, sound):
    data = sound.read_bytes()
    folder = tmp_path / "videos"
    (folder / "deep").mkdir(parents=True)
    media = data.index(b"mdat")
    # Content of mvhd and mdhd: version and flags, two times, time scale, duration; of stsz: ..., one size, count.
    planted = {
        "sound.mp4": (data, None, 40),
        "deep/named_otherwise.AVI": (data, None, 40),
        "half.mp4": (data[: len(data) // 2], "truncated", None),
        "nearly_all.mp4": (data[: int(len(data) * 0.95)], "corrupt", 37),
        "no_media.mp4": (data[: media + 4], "truncated", None),
        "zeros.mp4": (data[: len(data) // 2] + bytes(3000) + data[len(data) // 2 + 3000 :], "corrupt", 39),
        "one_bit.mp4": (flip(data, media + int(0.37 * (len(data) - media))), "corrupt", 40),
        # The times of MP4 frames stand in a table, and are believed rather than this; Matroska has no such table.
        "lying_duration.mp4": (patched(data, b"mdhd", 20, 10 * duration_of(data)), None, 40),
        "lying_duration.mkv": (stretched(matroska(tmp_path / "plain.mkv")), "truncated", None),
        "lying_count.mp4": (patched(data, b"stsz", 12, 1 << 20), "truncated", None),
        "codec.mp4": (data.replace(b"avc1", b"zzzz"), "codec", None),
        "junk.mkv": (b"this is no video" * 100, "unreadable", None),
        "empty.webm": (b"", "empty", None),
    }
    for name, (content, _, _) in planted.items():
        (folder / name).write_bytes(content)
    write_video(folder / "one_frame.mp4", gray_frames(1))
    write_sound_alone(folder / "sound_alone.mp4")
    (folder / "notes.txt").write_text("no video")
    passed, lines, said = run_check(folder, tmp_path / "check.jsonl", workers=2)
    assert not passed
    wanted = {name: error for name, (_, error, _) in planted.items()}
    assert errors(lines) == {**wanted, "one_frame.mp4": None, "sound_alone.mp4": "no video"}
    decoded = {line["path"]: line["frames_decoded"] for line in lines}
    assert decoded["one_frame.mp4"] == 1
    assert {name: decoded[name] for name in planted} == {name: frames for name, (*_, frames) in planted.items()}
    assert all(("\n" not in line["reason"]) for line in lines if line["reason"] is not None)
    counts = Counter(line["error"] for line in lines if line["error"])
    head, *table = said[said.index(next(line for line in said if line.startswith("error"))) : -1]
    assert head.split() == ["error", "count", "first", "example"]
    assert {cells[0]: int(cells[1]) for cells in (re.split(r" {2,}", line) for line in table)} == counts
    assert said[-1] == f"15 files, {counts.total()} bad; written to {tmp_path / 'check.jsonl'}"


def flip(data, at):
    return data[:at] + bytes([data[at] ^ 0x40]) + data[at + 1 :]


def matroska(path):
    return write_video(path, gray_frames(20)).read_bytes()


def stretched(data):
    """Matroska that promises ten times its duration."""
    element = b"\x44\x89\x88"  # Duration, 8 bytes
    at = data.index(element) + len(element)
    (duration,) = struct.unpack(">d", data[at : at + 8])
    return data[:at] + struct.pack(">d", 10 * duration) + data[at + 8 :]


def duration_of(data):
    (duration,) = struct.unpack(">I", data[data.index(b"mdhd") + 20 :][:4])
    return duration


def test_rows_of_a_manifest(tmp_path, sound):
    shutil.copy(sound, tmp_path / "a.mp4")
    (tmp_path / "damaged.npz").write_bytes(b"PK no archive")
    rows = [
        {"id": "whole", "video": "a.mp4", "detections": "damaged.npz"},
        {"id": "part", "video": "a.mp4", "start_seconds": 3.5, "end_seconds": 9},
        {"id": "late", "video": "a.mp4", "start_seconds": 4.5},
        {"id": "gone", "video": "b.mp4", "start_seconds": 4.5},
        {"id": "other", "video": "c.mp4", "split": "test"},
    ]
    manifest, ledger = write_rows(tmp_path / "m.jsonl", *rows), tmp_path / "check.jsonl"
    passed, lines, said = run_check(manifest, ledger, split="train")
    assert not passed
    assert sorted((line["path"], line["clip"] or "", line["error"]) for line in lines) == [
        ("a.mp4", "", None),
        ("a.mp4", "late", "range"),
        ("a.mp4", "part", None),
        ("b.mp4", "gone", "missing"),
        ("damaged.npz", "", "boxes"),
    ]
    (late,) = (line for line in lines if line["clip"] == "late")
    assert (late["part"], late["reason"]) == (
        [4.5, None],
        "start_seconds 4.5 is not before the end of the video at 4 s",
    )
    (part,) = (line for line in lines if line["clip"] == "part")
    assert (part["part"], part["frames_expected"], part["frames_decoded"]) == ([3.5, 9], 5, 5)
    assert said[:3] == [
        f"{manifest}: 5 rows: 4 train, 1 test; checking on train",
        "1 of 2 video files (50.0%) do not exist, the first: b.mp4",
        said[2],
    ]
    assert said[2].startswith("1 of 1 files of detections (100.0%) cannot be read, the first: detections ")
    assert said[-1].startswith("5 files and parts of files, 3 bad;")

    again = run_check(manifest, ledger, split="train")
    assert again[:2] == (False, lines)
    assert sorted(again[2]) == sorted(said)

    rows[2]["start_seconds"] = 3.0
    rows[0].pop("detections")
    shutil.copy(sound, tmp_path / "b.mp4")
    write_rows(manifest, rows[0], rows[1], rows[2], {"id": "gone", "video": "b.mp4"})
    passed, lines_now, said = run_check(manifest, ledger, split="train")
    assert passed
    assert lines_now[:-2] == lines
    assert [(line["path"], line["clip"]) for line in lines_now[-2:]] == [("a.mp4", "late"), ("b.mp4", None)]
    assert said[-1].startswith("4 files and parts of files, 0 bad;")


def test_a_changed_file_is_checked_again_and_a_cut_line_is_no_verdict(tmp_path, sound):
    folder, ledger = tmp_path / "videos", tmp_path / "check.jsonl"
    folder.mkdir()
    for name in ("a.mp4", "b.mp4", "c.mp4"):
        shutil.copy(sound, folder / name)
    passed, lines, _ = run_check(folder, ledger)
    assert passed
    whole = ledger.read_bytes()
    ledger.write_bytes(whole[:-20])  # the line of c
    (folder / "a.mp4").write_bytes(sound.read_bytes()[:3000])
    passed, lines_now, said = run_check(folder, ledger)
    assert not passed
    assert lines_now[:2] == lines[:2]
    assert [(line["path"], line["error"]) for line in lines_now[2:]] == [("a.mp4", "truncated"), ("c.mp4", None)]
    assert said[-1].startswith("3 files, 1 bad;")


# Stands for decoders that hang or crash; what it says of each call tells how often they were called.
_SITE = """
import os, signal, time
_open = os.open

def faulty(file, *rest, **options):
    name = os.path.basename(str(file))
    if name.endswith(".mp4"):
        with open(os.environ["CALLS"], "a") as calls:
            calls.write(name + "\\n")
    if name.startswith("hang"):
        time.sleep(1000)
    if name.startswith("slow"):
        time.sleep(0.33)
    if name.startswith("crash"):
        os.kill(os.getpid(), signal.SIGSEGV)
    return _open(file, *rest, **options)

os.open = faulty
"""


@pytest.fixture
def helpers(tmp_path, monkeypatch):
    """Helpers as above; gives the calls they were asked for."""
    site = tmp_path / "site"
    site.mkdir()
    (site / "sitecustomize.py").write_text(_SITE)
    monkeypatch.setenv("PYTHONPATH", str(site), prepend=os.pathsep)
    monkeypatch.setenv("CALLS", str(tmp_path / "calls"))
    (tmp_path / "calls").touch()
    return lambda: Counter((tmp_path / "calls").read_text().split())


def test_the_check_outlives_decoders_that_hang_and_crash(tmp_path, sound, helpers):
    folder = tmp_path / "videos"
    folder.mkdir()
    for name in ("crash.mp4", "hang.mp4", "a.mp4", "z.mp4"):
        shutil.copy(sound, folder / name)
    passed, lines, _ = run_check(folder, tmp_path / "check.jsonl", workers=2, timeout_seconds=5)
    assert not passed
    assert errors(lines) == {"a.mp4": None, "crash.mp4": "crash", "hang.mp4": "hang", "z.mp4": None}
    reasons = {line["path"]: line["reason"] for line in lines}
    assert reasons["crash.mp4"] == "decoding crashed its process (SIGSEGV), 3 times"
    assert reasons["hang.mp4"] == "decoding gave no answer within 5 s"
    assert (helpers()["crash.mp4"], helpers()["hang.mp4"]) == (3, 1)


def _with_ctrl_c() -> None:
    """Jobs in the background of a shell inherit that SIGINT is ignored."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def start_check(folder, ledger):
    """A check in a process group of its own, once it has written three verdicts."""
    command = [sys.executable, "-m", "stoa.cli", "data", "check", str(folder), "--ledger", str(ledger), "--workers=2"]
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, text=True, start_new_session=True, preexec_fn=_with_ctrl_c
    )
    deadline = time.monotonic() + 60
    while not ledger.exists() or ledger.read_bytes().count(b"\n") < 3:
        assert time.monotonic() < deadline and process.poll() is None
        time.sleep(0.02)
    return process


@pytest.mark.parametrize("how", [signal.SIGKILL, pytest.param(signal.SIGINT, marks=pytest.mark.slow)])
def test_what_a_stopped_check_has_done_is_not_done_again(tmp_path, sound, helpers, how):
    folder, ledger = tmp_path / "videos", tmp_path / "check.jsonl"
    folder.mkdir()
    names = [f"slow{number:02d}.mp4" for number in range(10)]
    for name in names:
        shutil.copy(sound, folder / name)
    process = start_check(folder, ledger)
    os.killpg(process.pid, how) if how == signal.SIGINT else process.kill()
    out, _ = process.communicate(timeout=30)
    if how == signal.SIGINT:
        assert process.returncode == 130
        assert out.splitlines()[-1] == f"interrupted; {ledger} has what was checked, the same call goes on"
    done = set(errors(read_ledger(ledger)))
    assert 3 <= len(done) < len(names)
    before = helpers()
    passed, lines, said = run_check(folder, ledger, workers=2)
    assert passed
    assert said[-1].startswith("10 files, 0 bad;")
    assert Counter(line["path"] for line in lines) == Counter(names)
    again = helpers() - before
    assert set(again) == set(names) - done


def test_progress_tells_what_is_bad(tmp_path, sound, monkeypatch, capsys):
    monkeypatch.setattr(progress, "_SECONDS_BETWEEN_LINES", 0.0)
    shutil.copy(sound, tmp_path / "a.mp4")
    (tmp_path / "b.mp4").touch()
    with progress.shown():
        run_check(tmp_path, tmp_path / "check.jsonl")
    first, second, end = (line.split(", ")[:2] for line in capsys.readouterr().err.splitlines())
    assert [first, second] == [["check: 1 of 2 files", "0 bad"], ["check: 2 of 2 files", "1 bad"]]
    assert end == second


@pytest.fixture(params=["frames", "video"])
def store(request, tmp_path, sound):
    """A store of three clips in two shards."""
    for name in ("a.mp4", "b.mp4", "c.mp4"):
        shutil.copy(sound, tmp_path / name)
    splits = {"a": "train", "b": "train", "c": "test"}
    rows = [{"id": name, "video": f"{name}.mp4", "split": split} for name, split in splits.items()]
    config = PrepareConfig(
        out=str(tmp_path / "out"),
        videos=str(tmp_path),
        stores=(request.param,),
        spacy=None,
        store=StoreConfig(frames=4, clips_per_shard=2),
    )
    annotations = open_annotations("manifest", write_rows(tmp_path / "m.jsonl", *rows))
    prepare(config, annotations, tmp_path, engine="local", workers=1, say=lambda line: None)
    return tmp_path / "out" / request.param


def damage(path, at):
    path.write_bytes(flip(path.read_bytes(), at))


def test_a_store(tmp_path, store):
    ledger = tmp_path / "check.jsonl"
    passed, lines, said = run_check(store, ledger)
    assert passed
    assert errors(lines) == {"000000.tar": None, "000001.tar": None}
    assert said[-1] == f"2 files, 0 bad; written to {ledger}"

    # One byte of the padding: every clip decodes as before, the sum alone tells.
    damage(store / "000000.tar", (store / "000000.tar").stat().st_size - 1)
    passed, lines, _ = run_check(store, ledger)
    assert not passed
    assert [(line["path"], line["clip"], line["error"]) for line in lines[2:]] == [("000000.tar", None, "sum")]
    sums = json.loads((store / "store.json").read_text())["shards"][0]["sha256"]
    assert f"store.json says {sums[:12]}..." in lines[2]["reason"]


def test_a_damaged_clip_of_a_store_is_named(tmp_path, store):
    ledger, shard = tmp_path / "check.jsonl", store / "000000.tar"
    suffix = b".mp4" if store.name == "video" else b".3.jpg"
    clip_b = shard.read_bytes().index(b"00000001" + suffix)
    content = bytearray(shard.read_bytes())
    content[clip_b + 512 : clip_b + 600] = bytes(88)
    shard.write_bytes(content)
    passed, lines, said = run_check(store, ledger)
    assert not passed
    found = [(line["path"], line["clip"], line["error"]) for line in lines]
    assert found[0][:2] == ("000000.tar", "b")
    assert found[0][2] in ("corrupt", "unreadable")
    assert found[1:] == [("000000.tar", None, "sum"), ("000001.tar", None, None)]
    assert f"{shard} at byte" in lines[0]["reason"]
    assert run_check(store, ledger) == (False, lines, [said[0], *said[-4:]])

    # Its split leaves it out, but not the sum of the file it stands in. That says nothing of the clips of the others.
    both = tmp_path / "test.jsonl"
    _, of_test, _ = run_check(store, both, split="test")
    passed, of_all, _ = run_check(store, both)
    assert not passed and ("000000.tar", "b") in [(line["path"], line["clip"]) for line in of_all[len(of_test) :]]
    _, lines, _ = run_check(store, tmp_path / "test only.jsonl", split="test")
    assert [(line["path"], line["clip"], line["error"]) for line in lines] == [
        ("000000.tar", None, "sum"),
        ("000001.tar", None, None),
    ]


def test_a_store_that_lost_a_shard(tmp_path, store):
    (store / "000001.tar").unlink()
    passed, lines, _ = run_check(store, tmp_path / "check.jsonl")
    assert not passed
    assert errors(lines) == {"000000.tar": None, "000001.tar": "missing"}


class Ranges(http.server.SimpleHTTPRequestHandler):
    """Serves files whole or in part."""

    def end_headers(self):
        self.send_header("Accept-Ranges", "bytes")
        super().end_headers()

    def do_GET(self):
        if "Range" not in self.headers:
            return super().do_GET()
        content = Path(self.translate_path(self.path)).read_bytes()
        first, last = self.headers["Range"].removeprefix("bytes=").split("-")
        part = content[int(first) : int(last) + 1]
        self.send_response(206)
        self.send_header("Content-Length", str(len(part)))
        self.send_header("Content-Range", f"bytes {first}-{int(first) + len(part) - 1}/{len(content)}")
        self.end_headers()
        self.wfile.write(part)

    def log_message(self, *arguments):
        pass


def test_a_store_at_a_url(tmp_path, store, monkeypatch):
    pytest.importorskip("aiohttp")
    damage(store / "000001.tar", (store / "000001.tar").stat().st_size - 1)
    monkeypatch.chdir(tmp_path)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), partial(Ranges, directory=store)) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_port}"
        said = []
        assert not check(url, CheckConfig(), said.append)
        assert not check(url, CheckConfig(), said.append)
        server.shutdown()
    lines = read_ledger(tmp_path / "check.jsonl")
    assert errors(lines) == {"000000.tar": None, "000001.tar": "sum"}
    assert [line["mtime"] for line in lines] == 4 * [None]  # nothing says that a file is still the same
    assert said[-1] == "2 files, 1 bad; written to check.jsonl"


def test_a_file_system_without_sizes_is_named(tmp_path, store, monkeypatch):
    def size(self, path):
        raise NotImplementedError

    monkeypatch.setattr(LocalFileSystem, "size", size)
    with pytest.raises(OSError, match=r"000000.tar could not be read \(NotImplementedError"):
        run_check(store, tmp_path / "check.jsonl")


def test_exit_status_and_the_ledger_beside_the_data(tmp_path, sound, capsys):
    shutil.copy(sound, tmp_path / "a.mp4")
    manifest = write_rows(tmp_path / "m.jsonl", {"id": "a", "video": "a.mp4"})
    assert main(["data", "check", str(manifest)]) == 0
    assert f"1 files, 0 bad; written to {tmp_path / 'check.jsonl'}" in capsys.readouterr().out
    (tmp_path / "b.mp4").touch()
    assert main(["data", "check", str(tmp_path)]) == 1
    out = capsys.readouterr().out
    assert "\nempty          1  b.mp4: file is empty (0 bytes)\n" in out
    assert set(errors(read_ledger(tmp_path / "check.jsonl"))) == {"a.mp4", "b.mp4"}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["absent.jsonl"], "absent.jsonl does not exist"),
        (["folder"], "folder holds no video and no store.json"),
        (["videos", "--split", "train"], "--split 'train' means nothing for videos, a folder of videos"),
        (["m.jsonl", "--split", "tset"], r"no usable row with split 'tset' (splits found: ['train'])"),
        (["m.jsonl", "--ledger", "m.jsonl"], "--ledger m.jsonl is the data itself"),
        (["videos", "--ledger", "m.jsonl"], "m.jsonl, row 1: is no verdict of a check"),
        (["m.jsonl", "--timeout_seconds", "0"], "timeout_seconds is 0.0; expected a positive number"),
        (["m.jsonl", "--workrs", "2"], "did you mean --workers?"),
        (["broken.jsonl"], "broken.jsonl, row 1: field 'video' is missing or empty"),
    ],
)
def test_mistakes_of_the_user(tmp_path, monkeypatch, capsys, arguments, message):
    monkeypatch.chdir(tmp_path)
    Path("folder").mkdir()
    Path("videos").mkdir()
    Path("videos/a.mp4").touch()
    manifest = write_rows(Path("m.jsonl"), {"id": "a", "video": "videos/a.mp4"})
    write_rows(Path("broken.jsonl"), {"id": "a"})
    before = manifest.read_bytes()
    assert main(["data", "check", *arguments]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert manifest.read_bytes() == before
