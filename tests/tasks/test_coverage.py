"""Of how much of a data set a report is, and what may stand beside published figures."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest
from factories import gray_frames, write_video
from hypothesis import given, settings
from hypothesis import strategies as st

from stoa.cli import main
from stoa.data.clips import FileClips
from stoa.data.ledger import Ledger
from stoa.data.loader import open_clips
from stoa.data.origin import PLAN_FILE, QUESTIONS_FILE, ROWS_FILE, Origin
from stoa.data.published import COUNTS, TEST_IDS_SHA256
from stoa.data.shards import STORE_FILE
from stoa.manifest import Caption, ClipRow, write_manifest
from stoa.prepare.adapters import open_annotations
from stoa.prepare.config import PrepareConfig
from stoa.prepare.pipeline import prepare
from stoa.questions import QuestionRow, write_questions
from stoa.tasks.coverage import Coverage, coverage_of, coverage_of_questions, ids_sha256, published_counts
from stoa.tasks.metrics.answers import chance_accuracy
from stoa.tasks.published import COLUMNS, PUBLISHED, comparison, published_of, require_comparable
from stoa.tasks.report import format_report, write_predictions

CLIP_SETS = [name for name, splits in COUNTS.items() if splits["test"].clips is not None]
QUESTION_SETS = [name for name, splits in COUNTS.items() if splits["test"].questions is not None]
CASES = [(task, name) for task, tables in PUBLISHED.items() for name in tables]
KINDS = {"retrieval": ("clips", "captions"), "captioning": ("clips", "captions")}


def prepared(folder: Path, data_set: str, *, clips: int, captions: int) -> Path:
    """What `stoa prepare` says of the data set in a folder."""
    plan = {"made_of": Origin(data_set, {"test": clips}, {"test": captions}).to_json()}
    (folder / PLAN_FILE).write_text(json.dumps(plan))
    return folder / ROWS_FILE


def described(count: int, captions: int) -> list[ClipRow]:
    """So many clips, which share the captions as evenly as can be."""
    each, more = divmod(captions, count)
    one = Caption("a")
    return [ClipRow(f"c{i}", f"{i}.mp4", (one,) * (each + (i < more)), "test") for i in range(count)]


@pytest.fixture(scope="module")
def whole_sets() -> dict[str, list[ClipRow]]:
    return {name: described(COUNTS[name]["test"].clips, COUNTS[name]["test"].captions) for name in CLIP_SETS}


@pytest.mark.parametrize("name", CLIP_SETS)
@settings(max_examples=20)
@given(data=st.data())
def test_any_subset_of_a_published_set_is_partial_unless_it_is_whole(name, whole_sets, tmp_path_factory, data):
    rows = whole_sets[name]
    folder = tmp_path_factory.mktemp("set")
    manifest = prepared(folder, name, clips=len(rows), captions=COUNTS[name]["test"].captions)
    lost = data.draw(st.sets(st.integers(0, len(rows) - 1), max_size=5), label="not in the manifest")
    unread = data.draw(st.sets(st.integers(0, len(rows) - 1), max_size=5), label="not readable")
    kept = [row for index, row in enumerate(rows) if index not in lost]
    ids = {rows[index].id for index in unread}
    found = coverage_of(FileClips(kept, folder), str(manifest), "test", captions=True, unreadable=ids)
    gone = len(lost | unread)
    assert found.seen["clips"] == len(rows) - gone
    assert found.seen["captions"] == sum(len(row.captions) for i, row in enumerate(rows) if i not in lost | unread)
    assert found.partial == (gone > 0)
    assert found.to_dict()["clips"] == {"seen": len(rows) - gone, "of": len(rows)}
    assert f"of {len(rows):,} published clips{' (' if gone else ','}" in str(found)
    assert "100.0%" not in str(found)


def test_thirteen_of_a_thousand_clips_say_so(whole_sets, tmp_path):
    manifest = prepared(tmp_path, "msrvtt-1k-a", clips=1000, captions=1000)
    few = FileClips(whole_sets["msrvtt-1k-a"][:13], tmp_path)
    found = coverage_of(few, str(manifest), "test", captions=True)
    assert str(found) == "13 of 1,000 published clips (1.3%), 13 of 1,000 published captions (1.3%)"
    assert found.card() == f"partial: {found} of msrvtt-1k-a"
    report = {"partial": found.partial, "coverage": found, "captioning": _Scores(), "unreadable": {}}
    assert format_report(report).splitlines()[0] == f"captioning on msrvtt-1k-a, test, PARTIAL: {found}"
    with pytest.raises(ValueError, match=r"--compare is 'msrvtt-1k-a', and what is measured is 13 of 1,000 published"):
        require_comparable("msrvtt-1k-a", found)


@pytest.mark.parametrize("own", [False, True], ids=["published", "own"])
def test_a_prepared_store_knows_what_it_lacks(own, tmp_path):
    """Of four clips one has no video, one no caption, and one cannot be decoded."""
    videos, listed = tmp_path / "videos", ["video1", "video2", "video3", "video4"]
    videos.mkdir()
    write_video(videos / "video1.mp4", gray_frames(6))
    write_video(videos / "video2.mp4", gray_frames(6))
    (videos / "video3.mp4").write_bytes(b"junk")
    captions = {id: "" if id == "video2" else "a" for id in listed}
    if own:
        source = tmp_path / "m.jsonl"
        write_manifest(source, [ClipRow(id, id, (Caption(text),), "test") for id, text in captions.items()])
    else:
        source = tmp_path / "annotations"
        source.mkdir()
        both = {"info": {}, "videos": [], "sentences": []}
        (source / "MSRVTT_data.json").write_text(json.dumps(both))
        (source / "MSRVTT_train.9k.csv").write_text("video_id\n")
        rows = "".join(f"{id},{text}\n" for id, text in captions.items())
        (source / "MSRVTT_JSFUSION_test.csv").write_text(f"video_id,sentence\n{rows}")
    config = PrepareConfig(out=str(tmp_path / "out"), videos=str(videos), spacy=None)
    annotations = open_annotations("manifest" if own else "msrvtt-1k-a", source)
    prepare(config, annotations, tmp_path, engine="local", workers=1, say=lambda line: None)
    for manifest in ("frames", ROWS_FILE):
        path = str(tmp_path / "out" / manifest)
        clips = open_clips(path, "test", Ledger(None))
        found = coverage_of(clips, path, "test", captions=True, unreadable={"video3"})
        assert found.partial and found.seen == {"clips": 1, "captions": 1}
        assert found.whole == ({"clips": 4, "captions": 3} if own else {"clips": 1000, "captions": 1000})
        assert found.data_set == (None if own else "msrvtt-1k-a")
    old = tmp_path / "out" / "frames" / STORE_FILE
    store = json.loads(old.read_text())
    del store["made_of"]
    old.write_text(json.dumps(store))
    path = str(tmp_path / "out" / "frames")
    found = coverage_of(open_clips(path, "test", Ledger(None)), path, "test", captions=False)
    assert found.partial and str(found) == "1 of 1 clips, of a store without 3 of the clips that it was made of"


class _Scores:
    def to_dict(self):
        return {"cider": 0.5, "num_clips": 13}


def test_fewer_captions_than_published_are_a_part(whole_sets, tmp_path):
    rows = whole_sets["msvd"]
    manifest = prepared(tmp_path, "msvd", clips=670, captions=27_763)
    fewer = [replace(rows[0], captions=rows[0].captions[1:]), *rows[1:]]
    found = coverage_of(FileClips(fewer, tmp_path), str(manifest), "test", captions=True)
    assert found.partial and "27,762 of 27,763 published captions (over 99.9%)" in str(found)


@pytest.mark.parametrize("name", QUESTION_SETS)
@pytest.mark.parametrize("lost", ["none", "absent", "unreadable", "types"])
def test_questions_count_by_what_was_published(name, lost, tmp_path):
    count = COUNTS[name]["test"].questions
    prepared(tmp_path, name, clips=5, captions=0)
    asked = [QuestionRow(str(i), f"c{i % 5}", "what", "x", "what") for i in range(count)]
    absent = [q for q in asked if lost == "absent" and q.clip == "c4"]
    here = [q for q in asked if q.clip != "c4"] if absent else asked[: -1 if lost == "types" else count]
    clips = FileClips(described(5, 5), tmp_path)
    found = coverage_of_questions(
        here, absent, str(tmp_path / QUESTIONS_FILE), clips, str(tmp_path / "m.jsonl"), "test",
        unreadable={"c4"} if lost == "unreadable" else (),
    )  # fmt: skip
    assert found.whole == {"questions": count}
    assert found.partial == (lost != "none") and found.data_set == name
    elsewhere = coverage_of_questions(here, absent, str(tmp_path / "q.jsonl"), clips, str(tmp_path / "m.jsonl"), "test")
    assert elsewhere.data_set is None and elsewhere.whole["questions"] == len(here) + len(absent)
    of_the_store = coverage_of_questions(
        here, absent, str(tmp_path / "q.jsonl"), clips, str(tmp_path / ROWS_FILE), "test"
    )
    assert of_the_store.whole == {"questions": count}


def test_data_of_ones_own_are_whole_unless_something_of_them_was_not_measured(tmp_path):
    rows = described(4, 6)
    write_manifest(tmp_path / "m.jsonl", rows)
    manifest = str(tmp_path / "m.jsonl")
    clips = open_clips(manifest, "test", Ledger(None))
    found = coverage_of(clips, manifest, "test", captions=True)
    assert (str(found), found.partial, found.data_set) == ("4 of 4 clips, 6 of 6 captions", False, None)
    found = coverage_of(clips, manifest, "test", captions=True, unreadable={"c0"})
    assert (str(found), found.partial) == ("3 of 4 clips (75.0%), 4 of 6 captions (66.7%)", True)
    write_manifest(tmp_path / "m.jsonl", [*rows, ClipRow("mute", "x.mp4", (), "test")])
    found = coverage_of(open_clips(manifest, "test", Ledger(None)), manifest, "test", captions=True)
    assert (str(found), found.partial) == ("4 of 5 clips (80.0%), 6 of 6 captions", True)
    part = coverage_of(FileClips(rows[:2], tmp_path), manifest, "test", captions=False, a_part=True)
    assert (str(part), part.partial) == ("2 of 2 clips", False)


def whole(task: str, name: str, **changes) -> Coverage:
    kinds = KINDS.get(task, ("questions", "clips"))
    published = published_counts(name, "test", kinds)
    return Coverage("test", {kind: published.get(kind, 7) for kind in kinds}, published, name, **changes)


def report_of(task: str, coverage: Coverage) -> dict:
    ranks = {"text-to-video": {"r1": 1.1, "r5": 2.2, "r10": 3.3}}
    accuracy = {"accuracy": 12.3}
    numbers = {
        "captioning": {"cider": 0.123, "meteor": 0.3, "rouge_l": 0.6, "bleu4": 0.4},
        "retrieval": {"trained": {"itc": ranks, "itc+vtm": ranks}},
        "answering": {"chosen": accuracy},
        "multiple_choice": {"vtm": accuracy, "itc": accuracy},
    }
    return {task: numbers[task], "coverage": coverage, "partial": coverage.partial}


@pytest.mark.parametrize(("task", "name"), CASES)
def test_every_published_table_stands_beside_ours_and_is_told_apart(task, name):
    lines = comparison(task, name, report_of(task, whole(task, name)))
    ours, theirs = "\n".join(lines).split("published, not ours: ", 1)
    assert ("12.3" if task != "retrieval" else "1.1") in ours and "STOA-VLP" not in ours
    assert lines[1].split() == list(COLUMNS[task])
    for table in published_of(task, name):
        assert table.title in theirs and {len(row) for row in table.rows.values()} == {len(COLUMNS[task])}
        for method, figures in table.rows.items():
            assert f"  {method:30}" + "".join(f"{figure:9.1f}" for figure in figures) in lines
    assert "source: STOA-VLP, AAAI 2023" in theirs


@pytest.mark.parametrize(("task", "name"), CASES)
def test_published_figures_of_the_method_agree_between_its_tables(task, name):
    of_method = {table.rows.get("STOA-VLP", table.rows.get("all")) for table in published_of(task, name)}
    assert len(of_method) == 1


@pytest.mark.parametrize(("task", "name"), CASES)
@pytest.mark.parametrize("change", [-1, 1])
def test_fewer_or_more_than_published_is_not_compared(task, name, change):
    found = whole(task, name)
    for kind in found.whole:
        other = replace(found, seen={**found.seen, kind: found.seen[kind] + change})
        assert other.partial == (change < 0)
        with pytest.raises(ValueError, match=f"--compare is '{name}', and what is measured is .* of ") as error:
            comparison(task, name, report_of(task, other))
        assert "\n" not in str(error.value)


@pytest.mark.parametrize(("task", "name"), CASES)
def test_another_set_or_split_is_not_compared(task, name):
    other = replace(whole(task, name), data_set="another")
    with pytest.raises(ValueError, match=f"'{name}', whose published .* is of another, split test; name what belongs"):
        require_comparable(name, other)
    split = replace(whole(task, name), split="val", whole=dict.fromkeys(other.whole, 3))
    with pytest.raises(ValueError, match=f"is of {name}, split val"):
        require_comparable(name, split)


@pytest.mark.parametrize(("task", "name"), CASES)
def test_what_can_be_known_of_the_clips_is_said(task, name):
    last = comparison(task, name, report_of(task, whole(task, name, ids_sha256=ids_sha256(["other"]))))[-1]
    if name not in TEST_IDS_SHA256:
        assert last.endswith("whether they are the same ones is not known here")
        return
    assert last.endswith("their ids are not: they may be other clips")
    same = whole(task, name, ids_sha256=TEST_IDS_SHA256[name])
    assert "their ids are those of the published test set" in comparison(task, name, report_of(task, same))[-1]


@pytest.mark.parametrize(
    ("task", "name", "near"),
    [
        ("retrieval", "msrvtt", "msrvtt-1k-a"),
        ("retrieval", "DiDeMo", "didemo"),
        ("captioning", "MSRVT", "msrvtt"),
        ("answering", "msvd", "msvd-qa"),
        ("multiple_choice", "msrvtt_mc", "msrvtt-mc"),
        ("answering", "zzz", None),
    ],
)
def test_an_unknown_name_is_met_by_the_nearest(task, name, near):
    with pytest.raises(ValueError, match=f"--compare is '{name}': no published figures of {task} on it") as error:
        published_of(task, name)
    assert (f"did you mean '{near}'?" in str(error.value)) == (near is not None)
    assert "captioning: msrvtt, msvd; retrieval: msrvtt-1k-a, lsmdc, didemo; " in str(error.value)


def test_msrvtts_ids_are_as_many_as_were_published():
    assert ids_sha256(f"video{number}" for number in range(9999, 7009, -1)) == TEST_IDS_SHA256["msrvtt"]


def test_the_test_clips_of_7k_are_those_of_1k_a(tmp_path):
    rows = described(1000, 1000)
    manifest = prepared(tmp_path, "msrvtt-7k", clips=1000, captions=1000)
    found = coverage_of(FileClips(rows, tmp_path), str(manifest), "test", captions=True)
    assert found.data_set == "msrvtt-1k-a" and not found.partial
    require_comparable("msrvtt-1k-a", found)
    said = coverage_of(FileClips(rows, tmp_path), "x.jsonl", "eval", captions=True, said_to_be="msrvtt-1k-a")
    require_comparable("msrvtt-1k-a", replace(said, split="eval"))


@pytest.mark.parametrize("what", ["{", "[]", '{"made_of": {}}'])
def test_a_damaged_plan_is_named(what, tmp_path):
    (tmp_path / PLAN_FILE).write_text(what)
    with pytest.raises(ValueError, match=r"plan.json is damaged; run 'stoa prepare' again"):
        coverage_of(FileClips(described(2, 2), tmp_path), str(tmp_path / ROWS_FILE), "test", captions=True)


def test_the_command_compares_what_is_whole_and_refuses_a_part(tmp_path, capsys):
    """The published number of multiple choices, of which three in four are answered rightly."""
    rows = described(2990, 2990)
    asked = [QuestionRow(f"q{i}", row.id, "", "b", "multiple_choice", ("a", "b")) for i, row in enumerate(rows)]
    manifest, questions, said = (str(tmp_path / name) for name in ("m.jsonl", "q.jsonl", "said.jsonl"))
    write_manifest(manifest, rows)
    command = ["evaluate", "--task", "multiple_choice", "--predictions", said, "--manifest", manifest]
    command += ["--questions", questions, "--compare", "msrvtt-mc"]

    def call(few: list[QuestionRow]) -> int:
        write_questions(questions, few)
        write_predictions({q.id: "a" if i % 4 == 0 else "b" for i, q in enumerate(few)}, Path(said))
        return main(command)

    assert call(asked) == 0
    out = capsys.readouterr().out
    assert out.startswith("multiple choice on msrvtt-mc, test: 2,990 of 2,990 published questions, 2,990 clips\n")
    assert re.search(
        r"this report\n  given +75\.0\npublished, not ours: Table 3, accuracy \(%\)\n  STOA-VLP +98\.5\n", out
    )
    assert re.search(r"^chance +50\.0$", out, re.M)
    assert call(asked[:13]) == 2
    told = capsys.readouterr()
    assert not told.out and len(told.err.strip().splitlines()) == 1
    assert "13 of 2,990 published questions (0.4%), 13 clips: figures of a part cannot be compared" in told.err


@given(st.lists(st.tuples(st.integers(2, 6), st.integers(0, 9)), min_size=1, max_size=8))
def test_chance_of_a_choice_is_that_of_the_options_there_are(questions):
    """An option may stand there twice; picking each once in turn is right that often."""
    asked = [
        QuestionRow(str(i), "c", "", options[0], "mc", options)
        for i, (count, seed) in enumerate(questions)
        if (options := tuple("abc"[(seed + k) % 3] for k in range(count)))
    ]
    by_hand = [100 * sum(o == q.answer for o in q.options) / len(q.options) for q in asked]
    assert chance_accuracy(asked) == pytest.approx(sum(by_hand) / len(by_hand))
