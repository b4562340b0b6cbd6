"""What a row may hold: each kind of value is read, or named with file, row and key."""

import json
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stoa.fields import name_of, seconds_of
from stoa.manifest import Caption, composed, read_manifest
from stoa.questions import read_questions

ROW = {"id": "a", "video": "a.mp4", "caption": "x"}
QUESTION = {"clip": "a", "type": "what", "question": "what?", "answer": "dog"}


def read_row(folder, **changes):
    (folder / "m.jsonl").write_text(json.dumps(ROW | changes) + "\n")
    (row,) = read_manifest(folder / "m.jsonl", uncaptioned=True)
    return row


@pytest.mark.parametrize("key", ["split", "start_seconds", "end_seconds", "detections", "caption", "captions"])
def test_null_is_absent(tmp_path, key):
    row = read_row(tmp_path, **{key: None})
    absent = {**ROW, "captions": []} if key == "caption" else ROW
    (tmp_path / "n.jsonl").write_text(json.dumps({k: v for k, v in absent.items() if k != key}) + "\n")
    assert row == read_manifest(tmp_path / "n.jsonl", uncaptioned=True)[0]
    assert row.split == "train"


@pytest.mark.parametrize("key", ["id", "split", "options"])
def test_null_is_absent_of_a_question(tmp_path, key):
    for name, row in (("a", QUESTION | {key: None}), ("b", QUESTION)):
        (tmp_path / f"{name}.jsonl").write_text(json.dumps(row) + "\n")
    assert list(read_questions(tmp_path / "a.jsonl")) == list(read_questions(tmp_path / "b.jsonl"))


@pytest.mark.parametrize(("value", "name"), [(12, "12"), (12.0, "12"), ("12.0", "12"), ("12.5", "12.5"), (" a ", "a")])
def test_ids_are_texts(tmp_path, value, name):
    assert read_row(tmp_path, id=value).id == name
    (tmp_path / "q.jsonl").write_text(json.dumps(QUESTION | {"clip": value, "id": value}) + "\n")
    (question,) = read_questions(tmp_path / "q.jsonl")
    assert (question.clip, question.id) == (name, name)


BAD = [
    ({"id": 12.5}, "'id' is 12.5"),
    ({"id": True}, "'id' is True"),
    ({"id": float("nan")}, "'id' is NaN"),
    ({"id": ["a"]}, r"'id' is \['a'\]"),
    ({"id": " "}, "'id' is empty"),
    ({"video": False}, "'video' is False"),
    ({"video": float("nan")}, "'video' is NaN"),
    ({"split": True}, "'split' is True"),
    ({"split": ""}, "'split' is empty"),
    ({"split": "None"}, "'split' is 'None', as programs write a missing value"),
    ({"caption": float("nan")}, "'caption' is NaN, as programs write a missing value"),
    ({"caption": "nan"}, "'caption' is 'nan'"),
    ({"caption": None, "captions": ["x", float("nan")]}, "'captions' is NaN"),
    ({"caption": 5}, "caption 5 is neither"),
    ({"captions": ["y"]}, "'caption' and 'captions' both hold something"),
    ({"detections": ""}, "'detections' is ''"),
    ({"detections": True}, "'detections' is True"),
    ({"start_seconds": True}, "'start_seconds' is True"),
    ({"start_seconds": -1}, "'start_seconds' is -1"),
    ({"end_seconds": float("inf")}, "'end_seconds' is inf"),
    ({"end_seconds": float("nan")}, "'end_seconds' is NaN"),
    ({"end_seconds": "1_0"}, "'end_seconds' is '1_0'"),
    ({"end_seconds": "00:61:00"}, "'end_seconds' is '00:61:00'; expected a number of seconds >= 0, such as 62.5, or a"),
    ({"end_seconds": "12,5"}, "'end_seconds' is '12,5'"),
    ({"end_seconds": 10**400}, "'end_seconds' is 1000"),
    ({"end_seconds": 0}, "end_seconds 0.0 is not after start_seconds 0.0"),
    ({"start_seconds": "1:00", "end_seconds": 59}, "end_seconds 59.0 is not after start_seconds 60.0"),
]


@pytest.mark.parametrize(("changes", "message"), BAD)
def test_a_bad_value_is_named_with_its_row_and_key(tmp_path, changes, message):
    with pytest.raises(ValueError, match=rf"m.jsonl, row 1: .*{message}") as error:
        read_row(tmp_path, **changes)
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < 400


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (
            {"clip_id": "a", "video": "a.mp4", "caption": "x"},
            "field 'id' is missing or empty; rename 'clip_id' to 'id'",
        ),
        ({"id": "a", "path": "a.mp4", "caption": "x"}, "rename 'path' to 'video'"),
        ({"id": "a", "video": "a.mp4", "sentence": "x"}, "field 'captions' is missing; rename 'sentence' to 'caption'"),
        (
            {"id": "a", "video": "a.mp4", "caption": "x", "end_sec": 1},
            "'end_sec' has no meaning here; write 'end_seconds'",
        ),
    ],
)
def test_another_name_of_a_field_is_met_by_ours(tmp_path, row, message):
    (tmp_path / "m.jsonl").write_text(json.dumps(row) + "\n")
    with pytest.raises(ValueError, match=message):
        read_manifest(tmp_path / "m.jsonl")


@given(milliseconds=st.integers(0, 10**8))
def test_clock_times_are_seconds(milliseconds):
    seconds, hours, minutes = milliseconds / 1000, milliseconds // 3_600_000, milliseconds // 60_000
    rest = (milliseconds % 60_000) / 1000
    clock = f"{hours:02d}:{minutes % 60:02d}:{rest:06.3f}"
    forms = [seconds, repr(seconds), clock, clock.replace(".", ",")] + [f"{minutes}:{rest:06.3f}"] * (minutes < 100)
    for form in forms:
        assert seconds_of(form, "k", "w") == pytest.approx(seconds, abs=1e-9)


@given(number=st.integers(0, 10**15))
def test_a_whole_number_is_one_name_however_it_is_written(number):
    assert {name_of(value, "id", "w") for value in (number, float(number), f"{number}", f"{number}.0")} == {str(number)}


@given(words=st.lists(st.text("aé́̂q̣한", min_size=1, max_size=4), min_size=1, max_size=4))
def test_spans_hold_the_same_words_after_composition(words):
    text, spans = "", []
    for word in words:
        word = "o" + unicodedata.normalize("NFD", word)
        spans.append((len(text), len(text) + len(word)))
        text += word + " "
    found = composed(Caption(text, tuple(spans), tuple(spans[:1])))
    assert found.text == unicodedata.normalize("NFC", text)
    assert [found.text[a:b] for a, b in found.nouns] == [unicodedata.normalize("NFC", text[a:b]) for a, b in spans]
    assert found.verbs == found.nouns[:1]


def test_a_span_that_cuts_a_letter_takes_in_all_of_it():
    assert composed(Caption("e\u0301te\u0301", ((0, 1), (1, 3)))) == Caption("été", ((0, 1), (0, 2)))
