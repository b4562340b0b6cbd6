"""Stores are read here and over HTTP, by any process, and say what is wrong with them."""

import http.server
import json
import multiprocessing
import pickle
import re
import shutil
import socketserver
import threading
from pathlib import Path

import numpy as np
import pytest
from factories import gray_frames, tiny_config, write_video
from hypothesis import given
from hypothesis import strategies as st
from stores import small_stores

from stoa.data.boxes import ClipShape
from stoa.data.clips import CaptionClips
from stoa.data.dataset import ClipDataset
from stoa.data.decoding.base import DecodeError
from stoa.data.ledger import Ledger
from stoa.data.loader import open_clips
from stoa.data.media import FramePack
from stoa.data.members import tar_members
from stoa.data.sampler import SampleKey
from stoa.data.sampling import sample_times
from stoa.data.shards import ShardClips
from stoa.manifest import Caption, ClipRow
from stoa.tasks.videos import VideoReader


@pytest.fixture(scope="module")
def stores(tmp_path_factory) -> Path:
    """Five clips in both stores, two to a shard."""
    folder = tmp_path_factory.mktemp("clips")
    for i in range(5):
        write_video(folder / f"{i}.mp4", gray_frames(6 + i)[i:])
    rows = [
        ClipRow(f"clip{i}", f"{i}.mp4", (Caption(f"number {i}"), Caption("grey"))[: 1 + i % 2], split=split)
        for i, split in enumerate(("val", *["train"] * 4))
    ]
    return small_stores(folder, rows, frames=4)


class Files(http.server.SimpleHTTPRequestHandler):
    """Files with byte ranges, as object stores serve them; every third request fails."""

    requests = 0

    def do_GET(self):
        Files.requests += 1
        if Files.requests % 3 == 0:
            return self.send_error(503)
        path = Path(self.translate_path(self.path))
        if not path.is_file():
            return self.send_error(404)
        content = path.read_bytes()
        wanted = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        if wanted:
            first, last = int(wanted[1]), int(wanted[2] or len(content) - 1)
            content = content[first : last + 1]
        self.send_response(206 if wanted else 200)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *arguments):
        pass


@pytest.fixture
def server(stores, monkeypatch):
    monkeypatch.setattr("stoa.data.ranges.WAIT_SECONDS", 0.01)
    handler = type("Handler", (Files,), {"directory": str(stores)})
    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), lambda *a: handler(*a, directory=str(stores))) as served:
        threading.Thread(target=served.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{served.server_address[1]}"
        served.shutdown()


@pytest.mark.parametrize("kind", ["frames", "video"])
def test_a_store_at_a_url(stores, server, kind):
    here, there = ShardClips(str(stores / kind), "train"), ShardClips(f"{server}/{kind}", "train")
    assert len(there) == len(here) == 4
    assert there.fingerprint == here.fingerprint
    for number in range(4):
        mine, theirs = here.place(number).read(), there.place(number).read()
        assert mine.row == theirs.row
        if kind == "frames":
            assert mine.media.jpegs == theirs.media.jpegs
        else:
            assert mine.media == theirs.media
    assert Files.requests > 6  # some of which were refused, and made again


def _read_in_child(clips, queue):
    queue.put([clips.row(number).id for number in range(len(clips))])


def test_other_processes_read_it(stores, server):
    for url in (str(stores / "frames"), f"{server}/frames"):
        clips = ShardClips(url, "train")
        clips.row(0)
        context = multiprocessing.get_context("fork")
        queue = context.Queue()
        process = context.Process(target=_read_in_child, args=(clips, queue))
        process.start()
        assert queue.get(timeout=60) == ["clip1", "clip2", "clip3", "clip4"]
        process.join()
        assert pickle.loads(pickle.dumps(clips)).row(3).id == "clip4"


def test_a_storage_that_never_answers_is_no_bad_clip(monkeypatch):
    monkeypatch.setattr("stoa.data.ranges.WAIT_SECONDS", 0.01)
    with pytest.raises(OSError, match=r"http://127.0.0.1:9/store.json could not be read, 4 times"):
        ShardClips("http://127.0.0.1:9", None)


def test_what_is_no_store(stores, tmp_path):
    with pytest.raises(ValueError, match=r"holds no store.json; pass a store that 'stoa prepare' has finished"):
        ShardClips(str(tmp_path), None)
    with pytest.raises(ValueError, match=r"has no split 'trian' \(splits found: \['train', 'val'\]\)"):
        ShardClips(str(stores / "frames"), "trian")
    copy = tmp_path / "copy"
    shutil.copytree(stores / "frames", copy)
    store = json.loads((copy / "store.json").read_text())
    (copy / "store.json").write_text(json.dumps(store | {"version": 99}))
    with pytest.raises(ValueError, match="has version 99; this reads 2: prepare anew"):
        ShardClips(str(copy), None)
    (copy / "store.json").write_text(json.dumps(store))
    np.save(copy / "index.npy", np.load(copy / "index.npy")[:3])
    with pytest.raises(ValueError, match=r"index.npy lists 3 clips, store.json says 5"):
        ShardClips(str(copy), None)
    (copy / "index.npy").write_bytes(b"junk")
    with pytest.raises(ValueError, match=r"index.npy: .*run 'stoa prepare' again"):
        ShardClips(str(copy), None)


def test_how_many_captions_each_clip_has(stores, server, tmp_path):
    for url in (str(stores / "frames"), f"{server}/frames"):
        clips = ShardClips(url, "train")
        assert clips.caption_counts() == [len(clips.row(i).captions) for i in range(4)] == [2, 1, 2, 1]
    every = CaptionClips(ShardClips(str(stores / "video"), "train"))
    texts = [every.texts(i, every.row(i))[0].text for i in range(len(every))]
    assert texts == ["number 1", "grey", "number 2", "number 3", "grey", "number 4"]
    copy = tmp_path / "copy"
    shutil.copytree(stores / "frames", copy)
    np.save(copy / "captions.npy", [1, 1])
    with pytest.raises(ValueError, match=r"captions.npy is of 2 clips, store.json says 5"):
        ShardClips(str(copy), None).caption_counts()
    (copy / "captions.npy").write_bytes(b"junk")
    with pytest.raises(ValueError, match=r"captions.npy: .*; run 'stoa prepare' again as before, which makes it anew"):
        ShardClips(str(copy), None).caption_counts()
    (copy / "captions.npy").unlink()
    assert ShardClips(str(copy), "train").caption_counts() == [2, 1, 2, 1]


def test_a_shard_cut_short_loses_its_last_clips_only(stores, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(stores / "frames", copy)
    shard = copy / "000001.tar"
    clips = ShardClips(str(copy), None)
    entry = clips._index[3]
    with open(shard, "r+b") as file:
        file.truncate(int(entry["offset"]) + 700)
    assert clips.place(2).read().row.id == "clip2"
    with pytest.raises(DecodeError, match=r"shard ends within the clip, 700 of \d+ bytes"):
        clips.place(3).read()
    with open(shard, "r+b") as file:
        file.truncate(int(entry["offset"]) + 100)  # not even its name is left
    ledger = Ledger(tmp_path / "ledger.jsonl")
    shape = ClipShape(num_frames=2, side=32, max_tokens=12, max_boxes=0)
    assert ClipDataset(clips, shape, seed=0, ledger=ledger)[SampleKey(3, 0, 0)].replaced == 1
    assert json.loads(ledger.path.read_text().splitlines()[0])["clip"] == "number 3"
    reader = VideoReader(clips, tiny_config(num_frames=2, max_tokens=12), 32)  # an evaluation leaves it out
    assert [row.id for read in reader for row in read.rows] == ["clip0", "clip1", "clip2", "clip4"]
    assert [id for id, _ in reader.unreadable] == ["clip3"]


def test_opened_by_the_loader(stores):
    clips = open_clips(str(stores / "frames"), "train", Ledger(None))
    assert [clips.row(i).id for i in range(len(clips))] == ["clip1", "clip2", "clip3", "clip4"]
    texts = "grey", *(f"number {i}" for i in range(1, 5))
    tokens = sorted({49406, 49407, *(t for text in texts for t in _tokens(text))})
    assert clips.used_token_ids() == tokens  # not those of the test clip
    assert ShardClips(str(stores / "frames"), None).used_token_ids() == sorted({*tokens, *_tokens("number 0")})
    assert "000000.tar at byte" in clips.where(0)


def _tokens(text: str) -> list[int]:
    from stoa.data.text import used_token_ids

    return used_token_ids([Caption(text)])


@given(st.integers(1, 40), st.integers(1, 40), st.floats(0.01, 1000))
def test_frames_of_a_pack_are_off_by_half_a_slot_at_most(slots, wanted, duration):
    middles = sample_times(0.0, duration, slots)
    pack = FramePack([b""] * slots, middles, duration, slots)  # every slot has a frame of its own
    chosen = middles[pack.choose(wanted)]
    assert np.abs(chosen - sample_times(0.0, duration, wanted)).max() <= duration / slots / 2 * (1 + 1e-9)
    assert (np.diff(pack.choose(wanted)) >= 0).all()


def test_tar_members_of_a_cut_piece(stores):
    data = ShardClips(str(stores / "frames"), None).place(0).content()
    whole = tar_members(data)
    assert "json" in whole
    assert set(tar_members(data[:600])) <= {"json"}
    assert tar_members(data[:100]) == {}
