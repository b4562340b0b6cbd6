"""Text files as people have them: each is read, or refused with a line that says what it is."""

import csv
import io
import json
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stoa.manifest import read_manifest
from stoa.prepare.adapters.files import Source, read_csv, read_json, read_names
from stoa.prepare.detections.labels import read_class_names
from stoa.questions import read_questions
from stoa.tasks.report import read_predictions
from stoa.text_files import misnamed, nfc, on_disk, parse_json, read_table

ROW = {"id": "a", "video": "a.mp4", "caption": "Café"}
QUESTION = {"clip": "a", "type": "what", "question": "where?", "answer": "Café"}
FILES = {
    "m.jsonl": (json.dumps(ROW, ensure_ascii=False), lambda path: read_manifest(path)[0].captions[0].text),
    "m.csv": ("id,video,caption\r\na,a.mp4,Café", lambda path: read_manifest(path)[0].captions[0].text),
    "m.tsv": ("id\tvideo\tcaption\na\ta.mp4\tCafé", lambda path: read_manifest(path)[0].captions[0].text),
    "q.jsonl": (json.dumps(QUESTION, ensure_ascii=False), lambda path: next(read_questions(path)).answer),
    "p.jsonl": ('{"id": "a", "prediction": "Café"}', lambda path: read_predictions(path)["a"]),
    "labels.txt": ("Café\r\nperson\r\n", lambda path: read_class_names(path)[0]),
    "labels.json": ('["Café"]', lambda path: read_class_names(path)[0]),
    "list.txt": ("Café\n", lambda path: next(read_names(Source(path)))[1]),
    "published.csv": ("name,x\nCafé,1\n", lambda path: next(read_csv(Source(path), ("name",)))[1]["name"]),
    "published.json": ('{"name": "Café"}', lambda path: read_json(Source(path))["name"]),
}


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("form", ["NFC", "NFD"])
@pytest.mark.parametrize("mark", ["", "\ufeff"])
def test_a_text_is_the_same_with_a_mark_and_decomposed(tmp_path, name, form, mark):
    text, read = FILES[name]
    (tmp_path / name).write_bytes((mark + unicodedata.normalize(form, text)).encode())
    assert nfc(read(tmp_path / name)) == "Café"
    if name != "published.json":  # whose values its adapter composes
        assert read(tmp_path / name) == "Café"


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-32", "latin-1"])
def test_another_encoding_is_named(tmp_path, name, encoding):
    text, read = FILES[name]
    (tmp_path / name).write_bytes(text.encode(encoding))
    with pytest.raises(ValueError, match=rf"{name}.*UTF-(8|16|32).*re-save") as error:
        read(tmp_path / name)
    assert "\n" not in str(error.value)


_cells = st.text(st.characters(exclude_characters="\0\r", codec="utf-8"), min_size=1, max_size=12).filter(str.strip)


@given(
    delimiter=st.sampled_from(",;\t|"),
    ends=st.sampled_from(["\n", "\r\n", "\r"]),
    order=st.permutations(["id", "video", "caption", "split"]),
    cells=st.lists(st.tuples(_cells, _cells, _cells, _cells), min_size=1, max_size=3),
)
def test_the_delimiter_is_the_one_that_finds_the_columns(delimiter, ends, order, cells):
    file = io.StringIO(newline="")
    writer = csv.writer(file, delimiter=delimiter, lineterminator=ends, quoting=csv.QUOTE_ALL)
    writer.writerow(order)
    writer.writerows([[" ".join(cell.split()) for cell in row] for row in cells])
    lines = io.BytesIO(file.getvalue().encode())
    found = list(read_table(lines, "t.csv", ("id", "video", "caption"), ("split",)))
    assert [header for _, header, _ in found] == [order] * len(cells)
    assert [row for *_, row in found] == [[" ".join(cell.split()) for cell in row] for row in cells]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "m.csv: the file is empty; expected a header with id, video, caption"),
        ("\n \n", "m.csv: the file is empty"),
        ("video_id,video,caption\n", "column 'id' is missing; .*; rename 'video_id' to 'id'"),
        ("id,path,caption\n", "column 'video' is missing; .*; rename 'path' to 'video'"),
        ("id,video,sentence\n", "column 'caption' is missing; .*; rename 'sentence' to 'caption'"),
        ("ID,video,caption\n", "column 'id' is missing; .*; rename 'ID' to 'id'"),
        ("id,video,captoin\n", "column 'caption' is missing; .*; rename 'captoin' to 'caption'"),
        ("id,video,caption,id\n", "column 'id' stands twice in the header"),
        ("id;video;caption;note;note\n", "column 'note' stands twice in the header"),
        ("id,video,caption\na,a.mp4\n", "line 2: 2 cells for the 3 columns, and none for 'caption'"),
        ("id,video,caption,\na,a.mp4,x,y\n", "line 2: more cells than columns"),
        ("id,video,caption\na,a.mp4,NaN\n", "line 2: field 'caption' is 'NaN', as programs write a missing value"),
        ("sep=;\nid;video;caption\nnan;a.mp4;x\n", "line 3: field 'id' is 'nan'"),
    ],
)
def test_a_wrong_table_is_named(tmp_path, text, message):
    (tmp_path / "m.csv").write_text(text, newline="")
    with pytest.raises(ValueError, match=message):
        read_manifest(tmp_path / "m.csv")


@pytest.mark.parametrize("text", ["id,video,caption,\na,a.mp4,x,\n", "sep=,\nid, video, caption\na, a.mp4, x\n"])
def test_a_spreadsheets_ways_are_known(tmp_path, text):
    (tmp_path / "m.csv").write_text(text)
    (row,) = read_manifest(tmp_path / "m.csv")
    assert (row.id, row.video, row.captions[0].text) == ("a", "a.mp4", "x")


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        (
            "m.jsonl",
            '[{"id": "a"}]',
            "row 1: expected a JSON object, got list; a .jsonl file has one object a line: jq",
        ),
        ("m.jsonl", '[\n{"id": "a"}\n]', "row 1: JSON over several lines; a .jsonl file has one object a line"),
        ("m.jsonl", '{\n"id": "a"\n}', "row 1: JSON over several lines"),
        ("m.jsonl", "", "m.jsonl has no usable row: the file is empty"),
        (
            "m.json",
            "[]",
            r"m.json has suffix '.json'; expected .jsonl or .csv; of a JSON list .* jq -c '.\[\]' .*m.json",
        ),
        ("m.jsonl", "[" * 100_000, "row 1: "),
    ],
)
def test_a_file_that_is_no_manifest_says_how_to_make_one(tmp_path, name, text, message):
    (tmp_path / name).write_text(text)
    with pytest.raises(ValueError, match=message):
        read_manifest(tmp_path / name)


def test_json_says_where_it_breaks():
    with pytest.raises(ValueError, match=r"f: not valid JSON \(.* at character 10 of 10, line 2\)"):
        parse_json('{"a": 1,\n ', "f")
    with pytest.raises(ValueError, match="f: not valid JSON .brackets are nested too deeply"):
        parse_json("[" * 100_000 + "]" * 100_000, "f")


def test_a_name_is_met_by_the_nearest():
    assert misnamed("clip", ["video_id", "question"]) == "video_id"
    assert misnamed("caption", ["mine", "Caption "]) == "Caption "
    assert misnamed("caption", ["mine"]) is None


@pytest.mark.parametrize("there", ["NFC", "NFD"])
@pytest.mark.parametrize("asked", ["NFC", "NFD"])
def test_a_file_is_found_whichever_way_its_name_was_typed(tmp_path, there, asked):
    name = "Café/ångström.mp4"
    path = tmp_path / unicodedata.normalize(there, name)
    path.parent.mkdir()
    path.touch()
    assert on_disk(tmp_path / unicodedata.normalize(asked, name)) == path
    assert on_disk(tmp_path / "é.mp4") == tmp_path / "é.mp4"
