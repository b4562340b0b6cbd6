"""The published files themselves: every published count, and that names and captions arrive."""

from __future__ import annotations

import functools
import json
import zipfile
from collections import Counter

import pytest

from stoa.prepare.adapters import Found, open_annotations


@functools.cache
def read(real_data, dataset: str, folder: str):
    annotations = open_annotations(dataset, real_data / "annotations" / folder)
    found = Found(annotations)
    return list(annotations.clips(found=found)), list(annotations.questions(found)), found


def test_msrvtt_has_the_published_counts(real_data):
    clips, questions, found = read(real_data, "msrvtt", "msrvtt")
    assert Counter(clip.split for clip in clips) == {"train": 6513, "val": 497, "test": 2990}
    assert sum(len(clip.captions) for clip in clips if clip.split != "test") == 140_200
    assert sum(len(clip.captions) for clip in clips if clip.split == "test") == 59_800
    assert {len(clip.captions) for clip in clips} == {20}
    assert (found.notes(), questions) == ([], [])
    # The times of the JSON are those of the film, not of the clip.
    assert {(clip.start_seconds, clip.end_seconds) for clip in clips} == {(None, None)}


def test_msrvtt_captions_are_those_of_their_clip_in_order(real_data):
    with zipfile.ZipFile(real_data / "annotations/msrvtt/test_videodatainfo.json.zip") as archive:
        content = json.loads(archive.read("test_videodatainfo.json"))
    clips, _, _ = read(real_data, "msrvtt", "msrvtt")
    for clip in clips[-3:]:
        texts = [s["caption"] for s in content["sentences"] if s["video_id"] == clip.id]
        assert [caption.text for caption in clip.captions] == texts


@pytest.mark.parametrize(("dataset", "train"), [("msrvtt-1k-a", 9000), ("msrvtt-7k", 7010)])
def test_1k_a_trains_with_all_captions_and_tests_with_one(real_data, dataset, train):
    clips, _, found = read(real_data, dataset, "msrvtt")
    by_split = {split: [clip for clip in clips if clip.split == split] for split in ("train", "test")}
    assert {split: len(rows) for split, rows in by_split.items()} == {"train": train, "test": 1000}
    assert {len(clip.captions) for clip in by_split["train"]} == {20}
    assert {len(clip.captions) for clip in by_split["test"]} == {1}
    first = by_split["test"][0]
    assert (first.id, first.captions[0].text) == ("video9770", "a person is connecting something to system")
    assert not {clip.id for clip in by_split["train"]} & {clip.id for clip in by_split["test"]}
    assert found.notes() == []


def test_msvd_has_the_published_counts(real_data):
    clips, _, found = read(real_data, "msvd", "msvd")
    assert Counter(clip.split for clip in clips) == {"train": 1200, "val": 100, "test": 670}
    assert sum(len(clip.captions) for clip in clips) == 80_827
    assert found.notes() == []


def test_msvd_qa_names_are_file_stems(real_data):
    clips, questions, found = read(real_data, "msvd-qa", "msvd_qa")
    assert Counter(question.split for question in questions) == {"train": 30_933, "test": 13_157}
    first = questions[0]
    assert (first.clip, first.question, first.answer, first.type) == (
        "-4wsuPCjDBc_5_15",
        "what is chewing on a nut?",
        "animal",
        "what",
    )
    assert Counter(question.type for question in questions).keys() == {"what", "who", "how", "when", "where"}
    stems = {clip.id for clip in read(real_data, "msvd", "msvd")[0]}
    assert {clip.id for clip in clips} == {question.clip for question in questions} <= stems
    # The validation questions are not among the files here, and the report says so.
    assert found.notes() == ["val_qa.json is missing", "val: 0 of the 6,415 published questions"]
    # Ids run through the splits: those before the test split are as many as were published.
    assert int(next(q for q in questions if q.split == "test").id) == 30_933 + 6415


@pytest.mark.slow
def test_msrvtt_qa_has_the_published_counts(real_data):
    clips, questions, found = read(real_data, "msrvtt-qa", "msrvtt_qa")
    assert Counter(question.split for question in questions) == {"val": 12_278, "test": 72_821}
    assert int(questions[0].id) == 158_581
    assert Counter(clip.split for clip in clips) == {"val": 497, "test": 2990}
    assert {clip.id for clip in clips} <= {clip.id for clip in read(real_data, "msrvtt", "msrvtt")[0]}
    assert found.notes()[1:] == ["train: 0 of the 158,581 published questions"]


def test_both_forms_of_msrvtt_qa_agree(real_data):
    folder = real_data / "annotations/msrvtt_qa"
    from_csv, from_jsonl = (
        list(open_annotations("msrvtt-qa", folder / f"val.{suffix}").questions()) for suffix in ("csv", "jsonl")
    )
    assert len(from_csv) == len(from_jsonl) == 12_278
    for a, b in zip(from_csv, from_jsonl, strict=True):
        assert (a.clip, a.question.rstrip("?"), a.answer, a.type) == (b.clip, b.question.rstrip("?"), b.answer, b.type)
    # The type that is taken from the question is the one that is published.
    lines = (folder / "val.jsonl").read_text(encoding="utf-8").splitlines()
    assert [question.type for question in from_csv] == [json.loads(line)["answer_type"] for line in lines]
