"""From manifest rows to batches: replacements, boxes, ledger, workers."""

import dataclasses
import errno
import gc
import json
import os
import time
import warnings
from itertools import islice

import av
import numpy as np
import pytest
import torch
from factories import gray_frames, gray_number, write_video

from stoa.data.boxes import ClipShape
from stoa.data.clips import FileClips
from stoa.data.config import DataConfig
from stoa.data.dataset import ClipDataset, collate, stable_hash
from stoa.data.decoding.base import DecodeError
from stoa.data.decoding.probe import as_decode_error
from stoa.data.ledger import Ledger
from stoa.data.loader import build_loader, open_clips
from stoa.data.sampler import GlobalBatchSampler, SampleKey
from stoa.data.text import encode_caption
from stoa.detections import Detections
from stoa.manifest import Caption, ClipRow, write_manifest

SHAPE = ClipShape(num_frames=2, side=32, max_tokens=12, max_boxes=3)


@pytest.fixture
def folder(tmp_path):
    """Six clips; clip i starts at gray level i."""
    for i in range(6):
        write_video(tmp_path / f"{i}.mp4", gray_frames(6 + i)[i:])
    return tmp_path


def rows(count: int = 6, **changes) -> list[ClipRow]:
    return [
        ClipRow(f"clip{i}", f"{i}.mp4", (Caption(f"number {i}"), Caption(f"clip {i}")), **changes) for i in range(count)
    ]


def caption_key(text: str) -> int:
    return stable_hash(*encode_caption(Caption(text), SHAPE.max_tokens).tokens_L)


def events(path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_a_sample(folder):
    sample = ClipDataset(FileClips(rows(), folder), SHAPE, seed=0)[SampleKey(2, 0, 5)]
    assert sample.frames_TCHW.dtype == torch.uint8
    assert sample.frames_TCHW.shape == (2, 3, 32, 32)
    assert [gray_number(f.numpy()) for f in sample.frames_TCHW] == [3, 6]
    assert (sample.position, sample.clip_key, sample.replaced) == (5, stable_hash("clip2"), 0)
    assert (sample.labels_TK == -1).all()


def test_captions_take_turns_by_epoch(folder):
    data = ClipDataset(FileClips(rows(), folder), SHAPE, seed=0)
    used = {data[SampleKey(0, epoch, 0)].caption_key for epoch in range(12)}
    assert used == {caption_key("number 0"), caption_key("clip 0")}
    assert data[SampleKey(0, 3, 0)].caption_key == data[SampleKey(0, 3, 0)].caption_key


def test_a_bad_clip_is_replaced_always_by_the_same_one(folder):
    (folder / "2.mp4").write_bytes(b"junk")
    (folder / "3.mp4").unlink()
    ledger = Ledger(folder / "ledger.jsonl")
    data = ClipDataset(FileClips(rows(), folder), SHAPE, seed=0, ledger=ledger)
    first, again = data[SampleKey(2, 0, 0)], data[SampleKey(2, 0, 0)]
    assert first.replaced == 1
    assert first.clip_key == again.clip_key != stable_hash("clip2")
    number = next(i for i in range(6) if stable_hash(f"clip{i}") == first.clip_key)
    assert first.caption_key in (caption_key(f"number {number}"), caption_key(f"clip {number}"))
    assert gray_number(first.frames_TCHW[0].numpy()) == number + 1
    assert data[SampleKey(3, 0, 0)].replaced == 1
    written = events(folder / "ledger.jsonl")
    assert {(e["event"], e["clip"]) for e in written} >= {("replaced", "clip2"), ("replaced", "clip3")}
    assert any("does not exist" in e["reason"] and e["path"].endswith("3.mp4") for e in written)


def test_storage_that_does_not_answer_is_no_bad_clip(folder, monkeypatch):
    ledger = Ledger(folder / "ledger.jsonl")
    data = ClipDataset(FileClips(rows(), folder), SHAPE, seed=0, ledger=ledger, timeout_seconds=0)

    def stale(path, **options):
        raise OSError(errno.ESTALE, "Stale file handle", path)

    with monkeypatch.context() as patch:
        patch.setattr(os, "stat", stale)
        with pytest.raises(OSError, match="Stale file handle"):
            data[SampleKey(2, 0, 0)]
    assert not ledger.path.exists()

    boxed = ClipDataset(
        FileClips([dataclasses.replace(rows()[2], detections="2.npz")], folder),
        SHAPE,
        seed=0,
        ledger=ledger,
        timeout_seconds=0,
    )
    with monkeypatch.context() as patch:
        patch.setattr("stoa.detections.open_regular", stale)
        with pytest.raises(OSError, match="Stale file handle"):
            boxed[SampleKey(0, 0, 0)]
    assert not ledger.path.exists()
    too_long = ClipDataset(FileClips([*rows(5), ClipRow("long", "x" * 300, (Caption("y"),))], folder), SHAPE, seed=0)
    assert too_long[SampleKey(5, 0, 0)].replaced == 1
    assert isinstance(as_decode_error(av.error.TimeoutError(errno.ETIMEDOUT, "timed out", "x.mp4")), OSError)
    assert isinstance(as_decode_error(av.error.OSError(errno.EIO, "of a damaged file", "x.mp4")), DecodeError)


def test_what_another_process_has_blamed_is_refused_from_the_next_epoch_on(folder):
    ledger = Ledger(folder / "ledger.jsonl")
    data = ClipDataset(FileClips(rows(), folder), SHAPE, seed=0, ledger=ledger)
    assert data[SampleKey(2, 0, 0)].replaced == 0
    ledger.record("blamed", "clip2", "hung", epoch=0)
    assert data[SampleKey(2, 0, 0)].replaced == 0
    assert data[SampleKey(2, 1, 0)].replaced == 1
    assert ClipDataset(FileClips(rows(), folder), SHAPE, seed=0, ledger=ledger)[SampleKey(2, 1, 0)].replaced == 1


def test_a_ledger_line_that_was_cut_short_harms_no_other(tmp_path):
    ledger = Ledger(tmp_path / "ledger.jsonl")
    ledger.record("blamed", "a", "crashed", epoch=1)
    whole = ledger.path.read_bytes()
    ledger.path.write_bytes(whole + whole[: len(whole) // 2])
    ledger.record("blamed", "b", "hung", epoch=2)
    ledger.record("blamed", "c", "hung", epoch=0)
    assert {clip: blame.epoch for clip, blame in ledger.blamed().items()} == {"a": 1, "b": 2, "c": 0}


def test_a_manifest_of_missing_files_is_one_clear_error(folder):
    data = ClipDataset(
        FileClips([dataclasses.replace(r, video="no/" + r.video) for r in rows()], folder), SHAPE, seed=0
    )
    with pytest.raises(ValueError, match=r"clip 'clip1' and 16 replacements could not be read.*no/.*does not exist"):
        data[SampleKey(1, 0, 0)]


def test_boxes_come_from_the_nearest_detected_frame_most_confident_first(folder):
    found = Detections(
        frame_times_seconds=np.array([0.0, 0.4]),
        frame_index=np.array([0, 1, 1, 1, 1, 1]),
        boxes=np.array(
            [[17, 1, 28, 20], [17, 1, 28, 20], [18, 2, 38, 30], [20, 4, 38, 30], [28, 9, 18, 20], [22, 5, 38, 30]],
            dtype=np.float32,
        ),
        labels=np.array([7, 0, 1, 2, 3, 4]),
        scores=np.array([0.5, 0.1, 0.9, 0.3, 0.99, 0.3], dtype=np.float32),
        size_wh=np.array([64, 32]),
        true_labels=np.array([7, -1, 5, 2, 3, 4]),
    )
    found.save(folder / "b.npz")
    data = ClipDataset(FileClips(rows(detections="b.npz"), folder), SHAPE, seed=0, cache_bytes=10**6)
    sample = data[SampleKey(0, 0, 0)]
    assert sample.true_labels_TK.tolist() == [[7, -1, -1], [5, 2, 4]]
    assert sample.labels_TK.tolist() == [[7, -1, -1], [1, 2, 4]]
    assert sample.dropped_boxes == 1
    np.testing.assert_allclose(sample.boxes_TK4[1, 0], [2 / 32, 2 / 32, 22 / 32, 30 / 32], atol=1e-6)
    np.testing.assert_allclose(sample.scores_TK[1], [0.9, 0.3, 0.3])
    (folder / "b.npz").unlink()  # the second time both come from memory
    again = data[SampleKey(0, 1, 0)]
    assert torch.equal(again.frames_TCHW, sample.frames_TCHW)
    assert (again.boxes_TK4 == sample.boxes_TK4).all()


def test_what_boxes_truly_show_is_optional(folder):
    fields = {
        "frame_times_seconds": np.array([0.0]),
        "frame_index": np.array([0]),
        "boxes": np.array([[1, 1, 20, 20]], dtype=np.float32),
        "labels": np.array([3]),
        "scores": np.array([0.5], dtype=np.float32),
        "size_wh": np.array([32, 32]),
    }
    Detections(**fields).save(folder / "b.npz")
    assert Detections.load(folder / "b.npz").true_labels is None
    sample = ClipDataset(FileClips(rows(detections="b.npz"), folder), SHAPE, seed=0)[SampleKey(0, 0, 0)]
    assert sample.labels_TK[0, 0] == 3
    assert (sample.true_labels_TK == -1).all()
    with pytest.raises(ValueError, match=r"true_labels is \(2,\); expected \(1,\), one for each box"):
        Detections(**fields, true_labels=np.array([1, 2]))
    with pytest.raises(ValueError, match="scores hold nan; a confidence is a finite number"):
        Detections(**{**fields, "scores": np.array([np.nan], dtype=np.float32)})


def test_damaged_detections_replace_the_clip(folder):
    (folder / "b.npz").write_bytes(b"PK junk")
    data = rows()
    data[0] = dataclasses.replace(data[0], detections="b.npz")
    sample = ClipDataset(FileClips(data, folder), SHAPE, seed=0)[SampleKey(0, 0, 0)]
    assert sample.replaced == 1


def test_collate_counts(folder):
    (folder / "2.mp4").write_bytes(b"junk")
    data = ClipDataset(FileClips(rows(), folder), SHAPE, seed=0)
    loaded = collate([data[SampleKey(i, 0, i)] for i in range(4)])
    assert len(loaded.batch) == 4
    assert loaded.replaced == 1
    assert loaded.batch.position_B.tolist() == [0, 1, 2, 3]


def test_the_cache_gives_the_same_samples_and_keeps_to_its_size(folder):
    plain = ClipDataset(FileClips(rows(), folder), SHAPE, seed=0)
    bytes_of_a_clip = 2 * 3 * 32 * 32
    cached = ClipDataset(FileClips(rows(), folder), SHAPE, seed=0, cache_bytes=3 * bytes_of_a_clip)
    for epoch in range(2):
        for i in range(6):
            key = SampleKey(i, epoch, 0)
            assert torch.equal(cached[key].frames_TCHW, plain[key].frames_TCHW)
    for i in range(6):
        (folder / f"{i}.mp4").unlink()
    assert [cached[SampleKey(i, 0, 0)].replaced for i in range(3)] == [0, 0, 0]
    with pytest.raises(ValueError, match="clip 'clip3'"):
        cached.load(3)


def load(folder, num_workers: int, batches: int = 7):
    sampler = GlobalBatchSampler(6, 2, rank=0, world=1, seed=3)
    config = DataConfig(num_workers=num_workers)
    loader = build_loader(
        config, FileClips(rows(), folder), SHAPE, sampler, ledger=Ledger(None), device=torch.device("cpu")
    )
    return [loaded.batch for loaded in islice(loader, batches)]


def test_workers_do_not_change_the_batches(folder):
    for a, b in zip(load(folder, 0), load(folder, 2), strict=True):
        for f in dataclasses.fields(a):
            assert torch.equal(getattr(a, f.name), getattr(b, f.name)), f.name


class Unfinished:
    """Waits for ever where it is freed in another process, as a scaler of FFmpeg with threads does."""

    def __init__(self) -> None:
        self.itself = self
        self.process = os.getpid()

    def __del__(self) -> None:
        while os.getpid() != self.process:
            time.sleep(1)


HELD: list[Unfinished] = []


def free() -> None:
    if HELD:
        HELD.clear()
        gc.collect()


@pytest.mark.timeout(60)
def test_loader_processes_free_nothing_of_this_one(folder):
    os.register_at_fork(after_in_child=free)  # for good; it does nothing in other tests
    HELD[:] = [Unfinished()]
    try:
        assert len(load(folder, 2)) == 7
    finally:
        HELD.clear()


def test_empty_captions_go_to_the_ledger_and_other_scripts_are_warned_of_once(tmp_path):
    manifest = tmp_path / "m.jsonl"
    write_manifest(
        manifest, [ClipRow("a", "a.mp4", (Caption("собака бежит"),)), ClipRow("b", "b.mp4", (Caption(" "),))]
    )
    with pytest.warns(UserWarning, match=r"100.0% of the captions .* non-Latin"):
        found = open_clips(str(manifest), "train", Ledger(tmp_path / "ledger.jsonl"))
    assert [found.row(i).id for i in range(len(found))] == ["a"]
    assert events(tmp_path / "ledger.jsonl") == [{"event": "skipped", "clip": "b", "reason": "empty caption"}]


def test_groups_of_clips_are_refused_where_one_is_left_out(tmp_path):
    rows = [ClipRow(name, f"{name}.mp4", (Caption("a"),)) for name in "abcd"]
    write_manifest(tmp_path / "m.jsonl", rows)
    assert len(open_clips(str(tmp_path / "m.jsonl"), "train", Ledger(None), together=2)) == 4
    write_manifest(tmp_path / "m.jsonl", [*rows, ClipRow("e", "e.mp4", (Caption(" "),))])
    with pytest.raises(ValueError, match=r"data.together is 2 and .*m.jsonl leaves out 1 clip\(s\)"):
        open_clips(str(tmp_path / "m.jsonl"), "train", Ledger(None), together=2)


def test_latin_captions_give_no_warning(tmp_path):
    write_manifest(tmp_path / "m.jsonl", [ClipRow("a", "a.mp4", (Caption("naïve café"),))])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert len(open_clips(str(tmp_path / "m.jsonl"), "train", Ledger(None))) == 1
