"""The manifest: what is read, and what is said when it is wrong."""

import json
from pathlib import Path

import pytest

from stoa.manifest import Caption, ClipRow, read_manifest, write_manifest
from stoa.prepare.adapters.own import own


def write(path: Path, *rows: object) -> Path:
    path.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows))
    return path


def test_rows_survive_writing_and_reading(tmp_path):
    rows = [
        ClipRow("a", "a.mp4", (Caption("a dog runs", ((2, 5),), ((6, 10),), (16,)), Caption("ein Hund läuft"))),
        ClipRow("b", "b.mp4", (Caption("x"),), "test", 1.5, 2.5, "b.npz"),
    ]
    write_manifest(tmp_path / "m.jsonl", rows)
    assert read_manifest(tmp_path / "m.jsonl") == rows
    assert read_manifest(tmp_path / "m.jsonl", split="test") == rows[1:]


def test_a_manifest_of_nothing_usable_says_why(tmp_path):
    path = tmp_path / "m.jsonl"
    write_manifest(path, [ClipRow("a", "a.mp4", ()), ClipRow("b", "b.mp4", (), "test")])
    with pytest.raises(ValueError, match=r"m.jsonl has no usable row: all 2 lack a caption"):
        read_manifest(path)
    assert [row.id for row in read_manifest(path, split="test", uncaptioned=True)] == ["b"]
    with pytest.raises(ValueError, match="is a folder; pass the .jsonl or .csv file itself"):
        read_manifest(tmp_path)


def test_csv_with_an_empty_caption(tmp_path):
    path = tmp_path / "m.csv"
    path.write_text('id,video,caption,start_seconds\na,a.mp4,"a dog, running",\nb,b.mp4,,\nc,c.mp4,a cat,2.5\n')
    skipped = []
    rows = read_manifest(path, on_skip=lambda clip, why: skipped.append((clip, why)))
    assert [(r.id, r.captions[0].text, r.start_seconds) for r in rows] == [
        ("a", "a dog, running", None),
        ("c", "a cat", 2.5),
    ]
    assert skipped == [("b", "empty caption")]


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"id": "a", "captions": ["x"]}, "row 1: field 'video' is missing"),
        ({"video": "a.mp4", "captions": ["x"]}, "row 1: field 'id' is missing"),
        ({"id": "a", "video": "a.mp4"}, "row 1: field 'captions' is missing"),
        ({"id": "a", "video": "a.mp4", "captions": "x"}, "'captions' is a str; expected a list"),
        ({"id": "a", "video": "a.mp4", "captions": [3]}, "caption 3 is neither"),
        ({"id": "a", "video": "a.mp4", "captions": [{"text": "x", "nouns": [[0, 9]]}]}, r"nouns span \[0, 9\)"),
        ({"id": "a", "video": "a.mp4", "caption": "x", "start_seconds": "soon"}, "'start_seconds' is 'soon'"),
        ({"id": "a", "video": "a.mp4", "caption": "x", "start_seconds": 3, "end_seconds": 2}, "end_seconds 2.0 is not"),
        ({"id": "a", "video": "a.mp4", "captions": [{"text": "x", "nouns": [3]}]}, r"nouns is \[3\]; expected a list"),
        ({"id": "a", "video": "a.mp4", "captions": [{"text": "x", "nouns": 1}]}, "nouns is 1; expected a list"),
        ({"id": "a", "video": "a.mp4", "captions": [{"text": "x", "nouns": [[0, 1.5]]}]}, r"nouns is \[\[0, 1.5\]\]"),
        (
            {"id": "a", "video": "a.mp4", "captions": [{"text": "x", "noun_labels": [1]}]},
            "noun_labels has 1 entries for 0 nouns",
        ),
        (
            {"id": "a", "video": "a.mp4", "captions": [{"text": "x", "nouns": [[0, 1]], "noun_labels": ["dog"]}]},
            r"noun_labels is \['dog'\]; expected a list of class indices, -1 for unknown",
        ),
        ({"id": "a", "video": "a.mp4", "caption": "x", "detections": 5}, "'detections' is 5; expected the path"),
        (
            {"id": "a", "video": "a.mp4", "caption": "x", "start": 5},
            "'start' has no meaning here; write 'start_seconds'",
        ),
        ('{"id": "a", "vid', "row 1: not valid JSON"),
        ("[1, 2]", "row 1: expected a JSON object, got list"),
    ],
)
def test_a_wrong_row_is_named(tmp_path, row, message):
    with pytest.raises(ValueError, match=message):
        read_manifest(write(tmp_path / "m.jsonl", row))


def test_a_quote_that_is_never_closed_swallows_nothing(tmp_path):
    path = tmp_path / "m.csv"
    path.write_text('id,video,caption\na,a.mp4,"a man runs\nb,b.mp4,a dog\n')
    with pytest.raises(ValueError, match=r"m.csv, line 3: not valid CSV \(unexpected end of data\)"):
        read_manifest(path)


def test_a_key_stands_once(tmp_path):
    path = tmp_path / "m.jsonl"
    path.write_text('{"id": "a", "video": "a.mp4", "caption": "x", "caption": "y"}\n')
    with pytest.raises(ValueError, match=r"m.jsonl, row 1: key 'caption' stands twice"):
        read_manifest(path)


def test_wrong_csv_files_are_named(tmp_path):
    path = tmp_path / "m, n.csv"
    path.write_text("id,video,text\na,a.mp4,x\n")
    with pytest.raises(ValueError, match="column 'caption' is missing"):
        read_manifest(path)
    path.write_bytes("id,video,caption\na,a.mp4,é\n".encode("latin-1"))
    with pytest.raises(ValueError, match="not UTF-8"):
        read_manifest(path)
    path.write_text('id,video,caption\na,a.mp4,"two\nlines"\n,b.mp4,x\n')
    with pytest.raises(ValueError, match="line 4: field 'id' is missing"):
        read_manifest(path)


def test_a_spreadsheets_csv_is_read(tmp_path):
    (tmp_path / "m.csv").write_bytes("\ufeffid,video,caption,note\na,a.mp4,a dog,mine\n".encode())
    assert read_manifest(tmp_path / "m.csv") == [ClipRow("a", "a.mp4", (Caption("a dog"),))]


def test_a_caption_of_blanks_in_html_is_empty(tmp_path):
    path = write(tmp_path / "m.jsonl", {"id": "a", "video": "a.mp4", "captions": ["&nbsp; ", "a dog"]})
    assert [c.text for c in read_manifest(path)[0].captions] == ["a dog"]


def test_wrong_files_are_named(tmp_path):
    good = {"id": "a", "video": "a.mp4", "caption": "x"}
    with pytest.raises(ValueError, match=r"absent.jsonl does not exist"):
        read_manifest(tmp_path / "absent.jsonl")
    with pytest.raises(ValueError, match=r"suffix '.txt'; expected .jsonl or .csv"):
        read_manifest(write(tmp_path / "m.txt", good))
    with pytest.raises(ValueError, match=r"row 2: id 'a' already stands in .*row 1"):
        read_manifest(write(tmp_path / "m.jsonl", good, good))
    with pytest.raises(ValueError, match=r"no usable row with split 'val' \(splits found: \['train'\]\)"):
        read_manifest(write(tmp_path / "m.jsonl", good), split="val")
    (tmp_path / "latin.jsonl").write_bytes('{"id": "a", "video": "a.mp4", "caption": "é"}'.encode("latin-1"))
    with pytest.raises(ValueError, match="row 1: not UTF-8"):
        read_manifest(tmp_path / "latin.jsonl")


def test_a_comma_that_is_not_quoted_is_no_new_cell(tmp_path):
    path = tmp_path / "m.csv"
    path.write_text("id,video,caption,split\na,a.mp4,a man runs,train,,\n")
    assert read_manifest(path)[0].captions == (Caption("a man runs"),)  # a spreadsheet's empty cells
    path.write_text("id,video,caption,split\na,a.mp4,a man runs,train\nb,b.mp4,a man runs, then falls,train\n")
    with pytest.raises(ValueError, match=r"m.csv, line 3: more cells than columns; put a text that holds a comma"):
        read_manifest(path)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("m.csv", "id,video,caption,split\na,a.mp4,a man runs,train,,\n"),  # a spreadsheet's empty cells
        ("m.csv", "id,video,caption,split\na,a.mp4,a man runs\n"),
        ("m.jsonl", '\ufeff{"id": "a", "video": "a.mp4", "caption": "a man runs"}\n'),  # a byte order mark
    ],
)
def test_training_and_preparing_read_the_same(tmp_path, name, text):
    (tmp_path / name).write_text(text, encoding="utf-8")
    expected = [ClipRow("a", "a.mp4", (Caption("a man runs"),))]
    assert read_manifest(tmp_path / name) == expected
    assert list(own(tmp_path / name).clips()) == expected
