"""The adapters on small files: what is read, what is reported, and what is said when a file is wrong."""

from __future__ import annotations

import json
from pathlib import Path

import published
import pytest

from stoa.data.published import Count
from stoa.manifest import Caption, ClipRow, write_manifest
from stoa.prepare.adapters import ADAPTERS, Found, VideoFolder, open_annotations, resolve
from stoa.prepare.adapters.base import Annotations


def texts(annotations: Annotations) -> dict[str, tuple[str, list[str]]]:
    return {row.id: (row.split, [caption.text for caption in row.captions]) for row in annotations.clips()}


def test_webvid_of_several_files(tmp_path):
    published.webvid(tmp_path, "results_2M_train.csv", {"21179416": "Aerial shot, winter forest", "5": 'a "b"\nc'})
    published.webvid(tmp_path, "results_2M_val.csv", {"34": "a dog"})
    published.webvid(tmp_path, "notes.csv", {"99": "not of the data set"})
    rows = list(open_annotations("webvid", tmp_path).clips())
    assert rows == [
        ClipRow("21179416", "21179416", (Caption("Aerial shot, winter forest"),), "train"),
        ClipRow("5", "5", (Caption('a "b"\nc'),), "train"),
        ClipRow("34", "34", (Caption("a dog"),), "val"),
    ]
    one = open_annotations("webvid", tmp_path / "results_2M_val.csv")
    assert texts(one) == {"34": ("val", ["a dog"])}


def test_webvid_one_split_in_parts_and_a_folder_named_after_both(tmp_path):
    folder = tmp_path / "webvid-train-val"
    published.webvid(folder, "results_10M_train/part0.csv", {"1": "a"})
    published.webvid(folder, "results_10M_val.csv", {"2": "b"})
    published.webvid(folder, "results_2M_train.csv", {"3": "c"})
    rows = open_annotations("webvid", folder).clips()
    assert {row.id: row.split for row in rows} == {"1": "train", "2": "val", "3": "train"}


def test_webvid_in_parts(tmp_path):
    published.webvid(tmp_path, "results_10M_train/part0.csv", {"1": "a"})
    published.webvid(tmp_path, "results_10M_train/part1.csv", {"2": "b"})
    published.webvid(tmp_path, "results_10M_val/part0.csv", {"3": "c"})
    assert texts(open_annotations("webvid", tmp_path)) == {
        "1": ("train", ["a"]),
        "2": ("train", ["b"]),
        "3": ("val", ["c"]),
    }


def test_very_long_captions_pass(tmp_path):
    published.webvid(tmp_path, "results_2M_train.csv", {"1": "word " * 2000, "2": "y" * 200_000})
    assert [len(row.captions[0].text) for row in open_annotations("webvid", tmp_path).clips()] == [10_000, 200_000]


def test_msrvtt_zipped_or_not(tmp_path):
    train = {"video0": ("train", ["a", "b"]), "video1": ("validate", ["c", "d"])}
    path = published.msrvtt_json(tmp_path, "train_val_videodatainfo.json", train)
    published.zipped(path, "train_val_annotation.zip", inside="train_val_annotation/")
    published.msrvtt_json(tmp_path / "unpacked", "test_videodatainfo.json", {"video7010": ("test", ["e", "f"])})
    expected = {"video0": ("train", ["a", "b"]), "video1": ("val", ["c", "d"]), "video7010": ("test", ["e", "f"])}
    assert texts(open_annotations("msrvtt", tmp_path)) == expected
    only = open_annotations("msrvtt", tmp_path / "train_val_annotation.zip")
    assert (list(texts(only)), only.absent) == (["video0", "video1"], ("test_videodatainfo.json",))


def test_msrvtt_in_one_file(tmp_path):
    """Both halves in one, as it goes around with the lists of 1k-A; the files of 2016 come first where both are."""
    both = {"video0": ("train", ["a"]), "video1": ("validate", ["b", "c"]), "video7010": ("test", ["d"])}
    published.msrvtt_json(tmp_path, "MSRVTT_data.json", both)
    annotations = open_annotations("msrvtt", tmp_path)
    assert texts(annotations) == {**both, "video1": ("val", ["b", "c"])} and annotations.absent == ()
    published.msrvtt_json(tmp_path, "train_val_videodatainfo.json", {"video0": ("train", ["z"])})
    assert texts(open_annotations("msrvtt", tmp_path))["video0"] == ("train", ["a"])
    published.write_csv(tmp_path / "MSRVTT_train.9k.csv", ["video_id"], ["video1"])
    published.write_csv(tmp_path / "MSRVTT_JSFUSION_test.csv", ("video_id", "sentence"), ["video7010", "one"])
    expected = {"video1": ("train", ["b", "c"]), "video7010": ("test", ["one"])}
    assert texts(open_annotations("msrvtt-1k-a", tmp_path)) == expected
    published.msrvtt_json(tmp_path, "test_videodatainfo.json", {"video7010": ("test", ["y"])})
    assert texts(open_annotations("msrvtt", tmp_path)) == {"video0": ("train", ["z"]), "video7010": ("test", ["y"])}


@pytest.mark.parametrize(("dataset", "what"), [("manifest", "your .jsonl or .csv file"), ("msvd", "the folder that")])
def test_annotations_that_are_not_there(tmp_path, dataset, what):
    with pytest.raises(ValueError, match=f"{dataset}: .*absent does not exist; pass {what}"):
        open_annotations(dataset, tmp_path / "absent")


def test_1k_a_names_the_file_that_is_missing(tmp_path):
    published.write_csv(tmp_path / "MSRVTT_train.9k.csv", ["video_id"], ["video0"], ["video7011"], ["video9"])
    header = ("key", "vid_key", "video_id", "sentence")
    published.msrvtt_json(tmp_path, "train_val_videodatainfo.json", {"video0": ("train", ["a", "b"])})
    test = {"video7010": ("test", ["x", "y"]), "video7011": ("test", ["c", "d"])}
    path = published.msrvtt_json(tmp_path, "test_videodatainfo.json", test)
    with pytest.raises(ValueError, match=r"msrvtt-1k-a: file MSRVTT_JSFUSION_test.csv is missing in .*; put it there"):
        open_annotations("msrvtt-1k-a", tmp_path)
    published.write_csv(tmp_path / "MSRVTT_JSFUSION_test.csv", header, ["ret0", "msr7010", "video7010", "one, caption"])
    annotations = open_annotations("msrvtt-1k-a", tmp_path)
    skipped: list[tuple[str, str]] = []
    assert [row.id for row in annotations.clips(lambda *what: skipped.append(what))] == [
        "video0",
        "video7011",
        "video7010",
    ]
    assert skipped == [("video9", "no caption")]
    assert texts(annotations)["video7010"] == ("test", ["one, caption"])
    path.unlink()
    with pytest.raises(ValueError, match="file test_videodatainfo.json is missing"):
        open_annotations("msrvtt-1k-a", tmp_path)


def test_msvd(tmp_path):
    published.write_json(tmp_path / "captions_msvd.json", {"a_1_2": ["x", "y"], "b_0_9": ["z"], "c_1_1": ["unlisted"]})
    (tmp_path / "train_list.txt").write_text("a_1_2\n")
    (tmp_path / "test_list.txt").write_text("b_0_9\n\ne_0_1\n")
    annotations = open_annotations("msvd", tmp_path)
    found = Found(annotations)
    assert [row.id for row in annotations.clips(found=found)] == ["a_1_2", "b_0_9"]
    assert found.notes()[0] == "val_list.txt is missing"
    assert "test: 1 clips without a caption dropped" in found.notes()


def test_lsmdc(tmp_path):
    clip = "0001_American_Beauty_00.02.29.298-00.02.30.004"
    rows = [(clip, 'SOMEONE says "hi'), (clip, "She waves."), ("3011_BLIND_DATING_01.11.23.496-01.11.25.853", "He\tx.")]
    published.lsmdc(tmp_path, "LSMDC16_annos_training.csv", rows)
    published.lsmdc(tmp_path, "LSMDC16_challenge_1000_publictect.csv", [("1006_A_00.25.49.077-00.25.54.718", "It.")])
    annotations = open_annotations("lsmdc", tmp_path)
    assert texts(annotations) == {
        clip: ("train", ['SOMEONE says "hi', "She waves."]),
        "3011_BLIND_DATING_01.11.23.496-01.11.25.853": ("train", ["He\tx."]),
        "1006_A_00.25.49.077-00.25.54.718": ("test", ["It."]),
    }
    assert annotations.absent == ("LSMDC16_annos_val.csv",)
    movie = published.touch(tmp_path / "videos", f"0001_American_Beauty/{clip}.avi")
    found = Found(annotations)
    assert [row.video for row in resolve(annotations, VideoFolder(movie), None, found=found)] == [
        f"0001_American_Beauty/{clip}.avi"
    ]
    assert "test: 1 of the 1,000 published clips" in found.notes()
    (tmp_path / "LSMDC16_annos_val.csv").write_text("one\ttwo\n")
    with pytest.raises(ValueError, match=r"LSMDC16_annos_val.csv, line 1: 2 cells; expected 6 between tabs: clip id"):
        texts(open_annotations("lsmdc", tmp_path))


def test_didemo_joins_the_sentences_of_a_video_in_file_order(tmp_path):
    rows = [
        ("9@N00_1_a.avi", "a cat runs"),
        ("8@N00_2_b.mov", "one"),
        ("9@N00_1_a.avi", " "),
        ("9@N00_1_a.avi", "jumps"),
    ]
    published.didemo(tmp_path, "test_data.json", rows)
    annotations = open_annotations("didemo", tmp_path)
    found = Found(annotations)
    clips = list(resolve(annotations, VideoFolder(published.touch(tmp_path, "9@N00_1_a.avi.mp4")), None, found=found))
    assert clips == [ClipRow("9@N00_1_a", "9@N00_1_a.avi.mp4", (Caption("a cat runs jumps"),), "test", end_seconds=30)]
    assert "test: 1 empty captions dropped" in found.notes()
    assert "test: 2 clips, 2 captions; 1 of 2 videos found" in found.lines()


def test_msrvtt_qa_in_its_three_forms(tmp_path):
    old = {"answer": "couch", "category_id": 14, "id": 5, "question": "What is it?", "video_id": 6513}
    published.write_json(tmp_path / "train_qa.json", [old])
    published.write_csv(
        tmp_path / "val.csv", ("video", "question", "answer", "qid", "type"), [6514, "who is, it", "man", 6, 14]
    )
    new = {"answer": "two", "question": "how many?", "video_id": "video7010", "answer_type": "how"}
    published.write_jsonl(tmp_path / "test.jsonl", new, new)
    annotations = open_annotations("msrvtt-qa", tmp_path)
    rows = list(annotations.questions())
    assert [(row.id, row.clip, row.question, row.answer, row.type, row.split) for row in rows] == [
        ("5", "video6513", "What is it?", "couch", "what", "train"),
        ("6", "video6514", "who is, it", "man", "who", "val"),
        ("test-0", "video7010", "how many?", "two", "how", "test"),
        ("test-1", "video7010", "how many?", "two", "how", "test"),
    ]
    assert [(row.id, row.captions, row.split) for row in annotations.clips()] == [
        ("video6513", (), "train"),
        ("video6514", (), "val"),
        ("video7010", (), "test"),
    ]


def msvd_qa(folder: Path, *video_ids: int) -> Annotations:
    rows = [{"answer": "cat", "id": 9, "question": "what is it?", "video_id": id} for id in video_ids]
    published.write_json(folder / "test_qa.json", rows)
    return open_annotations("msvd-qa", folder)


def test_msvd_qa_maps_names_to_stems(tmp_path):
    (tmp_path / "youtube_mapping.txt").write_text("-4wsuPCjDBc_5_15 vid1\n-7KMZQEsJW4_205_208 vid2")
    assert [row.clip for row in msvd_qa(tmp_path, 2).questions()] == ["-7KMZQEsJW4_205_208"]
    with pytest.raises(ValueError, match=r"test_qa.json, entry 1: video vid3 is not in .*youtube_mapping.txt"):
        list(msvd_qa(tmp_path, 3).questions())
    with pytest.raises(ValueError, match=r"test_qa.json, entry 2: id '9' already stands in .*entry 1"):
        list(msvd_qa(tmp_path, 1, 1).questions())
    (tmp_path / "youtube_mapping.txt").write_text("a vid1\nb vid1\n")
    with pytest.raises(ValueError, match="line 2: vid1 is mapped twice, to 'a' and to 'b'"):
        list(msvd_qa(tmp_path, 1).questions())


@pytest.mark.parametrize("form", ["jsonl", "json"])
def test_multiple_choice(tmp_path, form):
    options = ["a dog", "a cat", "x", "y", "z"]

    def write(answer: object) -> Annotations:
        if form == "jsonl":
            entry = {"qid": 0, "clip_name": "video9770", "options": options, "answer": answer}
            published.write_jsonl(tmp_path / "msrvtt_mc_test.jsonl", entry)
        else:
            entry = {"video": "video9770.mp4", "caption": options, "answer": answer}
            published.write_json(tmp_path / "msrvtt_mc_test.json", [entry])
        return open_annotations("msrvtt-mc", tmp_path)

    (row,) = write(1).questions()
    assert (row.id, row.clip, row.question, row.answer, row.options) == ("0", "video9770", "", "a cat", tuple(options))
    for wrong in (5, -1, "a cat", True, None):
        with pytest.raises(ValueError, match=f"answer is {wrong!r}; expected the index of one of the 5 options"):
            list(write(wrong).questions())


def test_ones_own_manifest_is_given_as_it_is(tmp_path):
    rows = [ClipRow("a", "sub/a.mp4", (Caption("a dog", ((2, 5),)),), "val", 1.0, 2.0, "a.npz")]
    write_manifest(tmp_path / "m.jsonl", rows)
    assert list(open_annotations("manifest", tmp_path / "m.jsonl").clips()) == rows
    path = published.write_csv(tmp_path / "m.csv", ("id", "video", "caption"), ["b", "b.mp4", ""], ["c", "c.mp4", "x"])
    skipped: list[tuple[str, str]] = []
    assert list(open_annotations("manifest", path).clips(lambda *what: skipped.append(what))) == [
        ClipRow("c", "c.mp4", (Caption("x"),))
    ]
    assert skipped == [("b", "no caption")]
    published.write_csv(path, ("id", "video", "caption"), ["", "b.mp4", "x"])
    with pytest.raises(ValueError, match="m.csv, line 2: field 'id' is missing or empty"):
        list(open_annotations("manifest", path).clips())
    with pytest.raises(ValueError, match="is no .jsonl or .csv file; pass the manifest itself"):
        open_annotations("manifest", tmp_path)


def test_what_is_found_is_reported(tmp_path):
    captions = {"1": "a", "2": "b", "3": "&nbsp; ", "4": "d"}
    published.webvid(tmp_path, "results_2M_train.csv", captions)
    published.webvid(tmp_path, "results_2M_val.csv", {"5": "e", "1": "again"})
    annotations = open_annotations("webvid", tmp_path)
    annotations = Annotations(
        annotations.dataset, annotations.clip_rows, published={"train": Count(4, 3), "test": Count(1000)}
    )
    videos = VideoFolder(published.touch(tmp_path / "videos", "x/1.mp4", "y/4.MKV", "5.webm", "2.txt"))
    missing: list[tuple[str, str]] = []
    skipped: list[tuple[str, str]] = []
    found = Found(annotations)
    rows = list(
        resolve(
            annotations,
            videos,
            lambda *what: missing.append(what),
            on_skip=lambda *what: skipped.append(what),
            found=found,
        )
    )
    assert [(row.id, row.video) for row in rows] == [("1", "x/1.mp4"), ("4", "y/4.MKV"), ("5", "5.webm")]
    assert missing == [("2", f"no video '2' in {tmp_path / 'videos'}")]
    assert skipped == [("3", "empty caption"), ("1", f"id repeats in {tmp_path / 'results_2M_val.csv'}, line 3")]
    assert found.lines() == [
        "train: 3 clips, 3 captions; 2 of 3 videos found",
        "test: nothing",
        "val: 1 clips, 1 captions; 1 of 1 videos found",
        "train: 3 of the 4 published clips",
        "train: 1 videos missing",
        "train: 1 empty captions dropped",
        "train: 1 clips without a caption dropped",
        "test: 0 of the 1,000 published clips",
        "val: 1 repeated ids dropped",
    ]


def test_a_repeated_id_names_both_places(tmp_path):
    published.webvid(tmp_path, "results_2M_train.csv", {"1": "a", "2": "b"})
    published.webvid(tmp_path, "results_2M_val.csv", {"3": "c", "2": "again"})
    with pytest.raises(ValueError, match=r"val.csv, line 3: id '2' already stands in .*train.csv, line 3; ids must be"):
        list(open_annotations("webvid", tmp_path).clips())


def test_two_ids_with_one_hash_are_both_kept(tmp_path, monkeypatch):
    published.webvid(tmp_path, "results_2M_train.csv", {"1": "a", "2": "b"})
    monkeypatch.setattr("stoa.prepare.adapters.base.SeenIds.add", lambda self, id: id == "1")
    assert [row.id for row in open_annotations("webvid", tmp_path).clips()] == ["1", "2"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("videoid,contentUrl\n1,u\n", "column 'name' is missing; the columns are videoid, contentUrl"),
        ("videoid,name\n1,a\n2,a, b\n", "line 3: 3 cells for the 2 columns; quote cells that hold a comma"),
        ("videoid,name\n1,a\n2", "line 3: 1 cells for the 2 columns"),
        ('videoid,name\n1,"a\n', r"line 2: not valid CSV \(unexpected end of data\)"),
        ('videoid,name\n1,"a"b\n', r"line 2: not valid CSV \(',' expected after '\"'\)"),
        ("videoid,name\n1,a\n,b\n", "line 3: column 'videoid' is empty"),
        ("", "the file is empty; expected a header with videoid, name"),
        (b"videoid,name\n1,caf\xe9\n", r"line 2: not UTF-8 \(.* at byte 5\); re-save the file as UTF-8"),
        (b'videoid,name\n1,"two\nlines"\n2,caf\xe9\n', r"line 4: not UTF-8"),
    ],
)
def test_a_wrong_csv_file_is_named(tmp_path, content, message):
    path = tmp_path / "results_2M_train.csv"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(ValueError, match=rf"{path.name}.*{message}") as error:
        list(open_annotations("webvid", path).clips())
    assert "\n" not in str(error.value)


def test_an_unclosed_quote_does_not_swallow_the_file(tmp_path):
    path = tmp_path / "results_2M_train.csv"
    path.write_text('videoid,name\n1,"never closed\n' + f"2,{'x' * 1000}\n" * 20_000)
    with pytest.raises(ValueError, match=r"train.csv, line \d+: not valid CSV \(field larger than field limit"):
        list(open_annotations("webvid", path).clips())


def test_a_spreadsheets_csv_is_read(tmp_path):
    (tmp_path / "results_2M_train.csv").write_bytes("\ufeffvideoid,name\r\n1,a\r\n\r\n".encode())
    assert texts(open_annotations("webvid", tmp_path)) == {"1": ("train", ["a"])}


def video(id: str, split: str = "train") -> dict[str, str]:
    return {"video_id": id, "split": split}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([], "expected a JSON object, got list"),
        ({"videos": []}, "key 'sentences': expected a JSON list, got NoneType"),
        ({"videos": [1], "sentences": []}, "videos entry 1: expected a JSON object, got int"),
        ({"videos": [{"split": "train"}], "sentences": []}, "videos entry 1: key 'video_id' is None; expected a text"),
        ({"videos": [video("a", "dev")], "sentences": []}, "videos entry 1: split is 'dev'; expected one of train"),
        ({"videos": [video("a")] * 2, "sentences": []}, "videos entry 2: id 'a' already stands in .*videos entry 1"),
        (
            {"videos": [video("a")], "sentences": [{"video_id": "b", "caption": "x"}]},
            "sentences entry 1: video_id is 'b', which is none of the videos",
        ),
        (
            {"videos": [video("a")], "sentences": [{"video_id": "a", "caption": ["x"]}]},
            r"sentences entry 1: key 'caption' is \['x'\]; expected a text",
        ),
        ('{"videos": [{"video_id": "a", "spl', r"not valid JSON \(.* at character \d+ of 34\); fetch the file again"),
        ('{"videos": [], "videos": []}', "key 'videos' stands twice, as entry 1 and as entry 2; keep one"),
        (b'{"videos": "\xff"}', r"not UTF-8 \(invalid start byte at byte 12\); re-save the file as UTF-8"),
    ],
)
def test_a_wrong_json_file_is_named(tmp_path, content, message):
    path = tmp_path / "train_val_videodatainfo.json"
    if not isinstance(content, bytes):
        content = (content if isinstance(content, str) else json.dumps(content)).encode()
    path.write_bytes(content)
    with pytest.raises(ValueError, match=rf"{path.name}.*{message}") as error:
        list(open_annotations("msrvtt", tmp_path).clips())
    assert "\n" not in str(error.value)


def test_msvd_captions_must_be_texts(tmp_path):
    (tmp_path / "train_list.txt").write_text("a\n")
    for captions, message in (({"a": "x"}, "key 'a': expected a JSON list, got str"), ({"a": [1]}, "'a': 1 is not a")):
        published.write_json(tmp_path / "captions_msvd.json", captions)
        with pytest.raises(ValueError, match=message):
            list(open_annotations("msvd", tmp_path).clips())
    (tmp_path / "captions_msvd.json").write_text('{"a": ["x"], "b": ["y"], "a": ["z"]}')
    with pytest.raises(ValueError, match="key 'a' stands twice, as entry 1 and as entry 3"):
        list(open_annotations("msvd", tmp_path).clips())


def test_an_open_question_needs_an_answer(tmp_path):
    published.write_csv(tmp_path / "val.csv", ("video", "question", "answer", "qid"), [1, "what", "", 6])
    with pytest.raises(ValueError, match=r"val.csv, line 2: key 'answer' is empty"):
        list(open_annotations("msrvtt-qa", tmp_path).questions())
    (tmp_path / "val.csv").unlink()
    (tmp_path / "val.jsonl").write_text('{"question": "what", "answer": "x", "video_id": "video1"}\n{"quest')
    with pytest.raises(ValueError, match=r"val.jsonl, line 2: not valid JSON"):
        list(open_annotations("msrvtt-qa", tmp_path).questions())


@pytest.mark.parametrize("damage", ["cut", "flipped"])
def test_a_damaged_archive_is_named(tmp_path, damage):
    train = {f"video{i}": ("train", [f"caption {i}"]) for i in range(200)}
    path = published.msrvtt_json(tmp_path, "train_val_videodatainfo.json", train)
    published.zipped(path, "train_val_annotation.zip")
    archive = tmp_path / "train_val_annotation.zip"
    data = bytearray(archive.read_bytes())
    if damage == "cut":
        del data[len(data) // 2 :]
    else:
        data[200] ^= 0xFF
    archive.write_bytes(data)
    with pytest.raises(ValueError, match="train_val_annotation.zip.*damaged or unreadable archive.*fetch it again"):
        list(open_annotations("msrvtt", tmp_path).clips())


def test_unknown_names_and_missing_files(tmp_path):
    with pytest.raises(ValueError, match="data set 'msrvtt-1ka' is unknown; did you mean 'msrvtt-1k-a'"):
        open_annotations("msrvtt-1ka", tmp_path)
    with pytest.raises(ValueError, match="msvd: .*absent does not exist"):
        open_annotations("msvd", tmp_path / "absent")
    wanted = {
        "webvid": "no CSV file in",
        "msrvtt": "train_val_videodatainfo.json, test_videodatainfo.json",
        "msrvtt-1k-a": "MSRVTT_train.9k.csv",
        "msrvtt-7k": "MSRVTT_train.7k.csv",
        "msvd": "captions_msvd.json",
        "lsmdc": "LSMDC16_annos_training.csv, LSMDC16_annos_val.csv, LSMDC16_challenge_1000_publictect.csv",
        "didemo": "train_data.json, val_data.json, test_data.json",
        "msrvtt-qa": "train_qa.json or train.csv or train.jsonl, val_qa.json",
        "msvd-qa": "youtube_mapping.txt",
        "msrvtt-mc": "msrvtt_mc_test.jsonl or msrvtt_mc_test.json",
    }
    assert wanted.keys() | {"manifest"} == ADAPTERS.keys()
    for dataset, names in wanted.items():
        with pytest.raises(ValueError, match=f"{dataset}: .*{names}"):
            open_annotations(dataset, tmp_path)
