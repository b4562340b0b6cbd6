"""Decoders that crash and hang take down neither a run nor its being the same when it is resumed."""

import json

import pytest
from launch import finish
from test_resume import assert_same_run, kill_when

from stoa.data.sampler import permutation
from stoa.manifest import read_manifest, write_manifest


def with_faulty_clips(data_set, folder):
    """The data set with two videos under names that ``decoder_faults`` makes faulty."""
    rows = []
    folder.mkdir()
    first, second = permutation(48, 0, 0)[:2]  # both in the first batch
    names = {first: "crash.mp4", second: "hang.mp4"}
    for number, row in enumerate(read_manifest(data_set / "manifest.jsonl")):
        video = data_set / row.video
        if number in names and row.split == "train":
            (folder / names[number]).symlink_to(video)
            video = folder / names[number]
        rows.append(type(row)(row.id, str(video), row.captions, row.split, detections=str(data_set / row.detections)))
    write_manifest(folder / "manifest.jsonl", rows)
    return folder / "manifest.jsonl", {rows[first].id: "crash", rows[second].id: "hang"}


@pytest.mark.slow
@pytest.mark.dist
def test_a_crash_and_a_hang_are_blamed_and_the_blame_is_kept(start, data_set, tmp_path, decoder_faults, monkeypatch):
    manifest, faulty = with_faulty_clips(data_set, tmp_path / "m")
    settings = ("--data.num_workers", "2", "--data.decode_timeout_seconds", "1.5")
    finish(start(tmp_path / "straight", *settings, manifest=manifest))
    events = [json.loads(line) for line in (tmp_path / "straight" / "ledger.jsonl").read_text().splitlines()]
    for clip, kind in faulty.items():
        of_clip = [event for event in events if event["clip"] == clip]
        assert [event["event"] for event in of_clip[:2]] == ["blamed", "replaced"]
        assert {"crash": "(SIGSEGV), 3 times", "hang": "no answer within 1.5 s"}[kind] in of_clip[0]["reason"]
    for name, times in (("crash.mp4", 3), ("hang.mp4", 1)):  # so often in every loader process that meets it
        assert (decoder_faults / name).stat().st_size in (times, 2 * times)

    # A resumed run sees what the interrupted one saw, though the decoder has been mended since.
    process = start(tmp_path / "resumed", *settings, manifest=manifest)
    kill_when(process, tmp_path / "resumed" / "checkpoints" / "step-00000005")
    monkeypatch.delenv("PYTHONPATH")
    finish(start(tmp_path / "resumed", *settings, manifest=manifest))
    assert_same_run(tmp_path / "straight", tmp_path / "resumed")
