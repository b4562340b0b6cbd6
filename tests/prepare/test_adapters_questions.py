"""Questions as JSONL: what is read, and what is said when it is wrong."""

from __future__ import annotations

import json
import unicodedata
from pathlib import Path

import published
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stoa.questions import QuestionRow, read_questions, write_questions
from stoa.synthetic.questions import Question

_texts = st.text(min_size=1).map(lambda text: unicodedata.normalize("NFC", text))
_names = st.text(st.characters(categories=["L", "N"]), min_size=1).map(
    lambda text: unicodedata.normalize("NFC", f"x{text}")
)


@st.composite
def _questions(draw: st.DrawFn) -> list[QuestionRow]:
    rows = []
    for id in draw(st.lists(_names, unique=True, max_size=4)):
        options = tuple(draw(st.lists(_texts, max_size=4)))
        answer = draw(st.sampled_from(options) if options else _texts)
        question = draw(st.just("") | _texts if options else _texts)
        rows.append(QuestionRow(id, draw(_names), question, answer, draw(_texts), options, draw(st.none() | _names)))
    return rows


@settings(max_examples=50)
@given(rows=_questions())
def test_rows_survive_writing_and_reading(tmp_path_factory, rows):
    path = tmp_path_factory.mktemp("questions") / "q.jsonl"
    write_questions(path, rows)
    assert list(read_questions(path)) == rows


def test_synthetic_questions_are_read(tmp_path):
    question = Question("test-3", "colour", "colour", "what colour is the ball?", "red")
    published.write_jsonl(tmp_path / "q.jsonl", question.to_json(), question.to_json())
    first, second = read_questions(tmp_path / "q.jsonl")
    assert first == QuestionRow("1", "test-3", "what colour is the ball?", "red", "colour")
    assert second.id == "2"


def test_only_what_is_there_is_written(tmp_path):
    write_questions(tmp_path / "q.jsonl", [QuestionRow("7", "a", "who?", "é", "who")])
    text = (tmp_path / "q.jsonl").read_text(encoding="utf-8")
    assert text == '{"id": "7", "clip": "a", "type": "who", "question": "who?", "answer": "é"}\n'


GOOD = {"clip": "a", "type": "who", "question": "who?", "answer": "man"}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"clip": ""}, "row 1: key 'clip' is ''; expected a text that is not empty"),
        ({"answer": None}, "row 1: key 'answer' is None; expected a text"),
        ({"question": ""}, "row 1: key 'question' is ''"),
        ({"type": 5}, "row 1: key 'type' is 5"),
        ({"options": "man"}, "row 1: key 'options' is 'man'; expected a list of texts"),
        ({"options": ["man", ""]}, "row 1: key 'options' is"),
        ({"options": ["dog", "cat"]}, r"row 1: answer 'man' is none of the options \['dog', 'cat'\]; write one of"),
        ({"split": ""}, "row 1: field 'split' is empty; expected a text"),
        ({"video": "a.mp4"}, "row 1: key 'video' has no meaning here; the keys are answer, clip, id, options"),
    ],
)
def test_a_wrong_row_is_named(tmp_path, change, message):
    published.write_jsonl(tmp_path / "q.jsonl", {**GOOD, **change})
    with pytest.raises(ValueError, match=message):
        list(read_questions(tmp_path / "q.jsonl"))


def test_wrong_files_are_named(tmp_path):
    path: Path = tmp_path / "q.jsonl"
    with pytest.raises(ValueError, match="q.jsonl do not exist; pass a .jsonl file"):
        list(read_questions(path))
    published.write_jsonl(path, {**GOOD, "id": 4}, {**GOOD, "id": "4"})
    with pytest.raises(ValueError, match="row 2: id '4' already stands in .*row 1; ids must be unique"):
        list(read_questions(path))
    path.write_text(json.dumps(GOOD) + '\n{"clip": "b", "typ')
    with pytest.raises(ValueError, match="row 2: not valid JSON"):
        list(read_questions(path))
    path.write_bytes(b'{"clip": "caf\xe9"}')
    with pytest.raises(ValueError, match="row 1: not UTF-8"):
        list(read_questions(path))
