"""Which questions belong to a split, and which are about nothing."""

import pytest

from stoa.questions import QuestionRow, questions_of_split, write_questions

CLIPS = {"a": "test", "b": "test", "c": "train"}


def ask(clip: str, split: str | None = None, kind: str = "what") -> QuestionRow:
    return QuestionRow(f"{clip}-{split}-{kind}", clip, "what?", "star", kind, split=split)


def of_split(path, rows, split="test", **more):
    write_questions(path, rows)
    here = [clip for clip, of in CLIPS.items() if of == split]
    asked, absent = questions_of_split(path.parent if more.pop("folder", False) else path, split, here, **more)
    return [row.clip for row in asked], [row.clip for row in absent]


def every_clip():
    return CLIPS


def test_the_question_tells_its_split_or_else_its_clip(tmp_path):
    rows = [ask("a"), ask("b", "test"), ask("c"), ask("c", "train"), ask("gone", "test"), ask("lost", "train")]
    assert of_split(tmp_path / "q.jsonl", rows, every_clip=every_clip) == (["a", "b"], ["gone"])
    assert of_split(tmp_path / "q.jsonl", rows, "train", every_clip=every_clip) == (["c", "c"], ["lost"])


def test_a_file_of_a_folder_is_of_the_split_it_is_named_for(tmp_path):
    found = of_split(tmp_path / "test.jsonl", [ask("a"), ask("gone")], folder=True, every_clip=every_clip)
    assert found == (["a"], ["gone"])


def test_clips_that_do_not_exist_are_named(tmp_path):
    rows = [ask("a"), *(ask(f"x{i}") for i in range(4)), ask("c"), ask("y", "test")]
    message = r"about 4 clips that are not in the manifest, 'x0', 'x1', 'x2' and others; mend their 'clip'"
    with pytest.raises(ValueError, match=message):
        of_split(tmp_path / "q.jsonl", rows, every_clip=every_clip)


def test_the_whole_manifest_is_read_only_where_it_is_needed(tmp_path):
    assert of_split(tmp_path / "q.jsonl", [ask("a"), ask("x", "val")], every_clip=pytest.fail) == (["a"], [])


@pytest.mark.parametrize(
    ("rows", "more", "message"),
    [
        ([ask("gone", "test")], {}, "none of the 1 is about a clip of it .the first is about 'gone'."),
        ([ask("a")], {"types": ["who"]}, r"none has a type of \['who'\] \(types found: \['what'\]\)"),
        ([ask("c"), ask("c", "val")], {}, r"none is of it \(splits found: \['that of the clip', 'val'\]\)"),
    ],
)
def test_nothing_to_ask_is_told(tmp_path, rows, more, message):
    with pytest.raises(ValueError, match=f"hold nothing to ask of split 'test': {message}"):
        of_split(tmp_path / "q.jsonl", rows, every_clip=every_clip, **more)
