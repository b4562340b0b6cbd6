"""A folder of videos from the command line."""

import json
import shutil

import pytest
from search.conftest import _model

from stoa.cli import main
from stoa.tasks.export import export_model


@pytest.fixture(scope="module")
def exported(tmp_path_factory) -> str:
    """Of a model that nobody has trained, with few words."""
    folder = tmp_path_factory.mktemp("exported")
    model = _model(0)
    export_model(model.trained, model.abilities, None, folder, compact=True)
    return str(folder)


@pytest.fixture(scope="module")
def folder(sources, exported, tmp_path_factory):
    """An indexed one."""
    videos = shutil.copytree(sources, tmp_path_factory.mktemp("commands") / "videos")
    (videos / "junk.mp4").write_bytes(b"junk")
    assert (
        main(["index", str(videos), "--model", exported, "--windows.seconds", "1", "--windows.step_seconds", "0.5"])
        == 0
    )
    return videos


def said(capsys, *words: object) -> str:
    assert main([*map(str, words)]) == 0
    return capsys.readouterr().out


def refused(capsys, *words: object) -> str:
    assert main([*map(str, words)]) == 2
    line = capsys.readouterr().err.strip().splitlines()[-1]
    return line


def test_an_index_says_what_it_did(folder, exported, capsys):
    words = ("index", folder, "--model", exported, "--windows.seconds", 1, "--windows.step_seconds", 0.5)
    lines = said(capsys, *words).splitlines()
    assert lines[0] == "0 videos indexed, 0 windows (0 still ones left out); 7 as they were, 0 gone"
    assert lines[1] == f"18 windows in {folder / '.stoa-index'}"
    assert lines[3].startswith("  junk.mp4: ")
    summary = json.loads(said(capsys, *words, "--json"))
    assert (summary["kept"], summary["total_windows"], list(summary["problems"])) == (7, 18, ["junk.mp4"])


def test_hits_are_told_to_people_and_machines(folder, exported, capsys):
    words = ("search", "a light", "--index", folder, "--model", exported, "--all", "--top_k", 3)
    head, *rows = said(capsys, *words).splitlines()
    assert head.split() == ["cosine", "match", "at", "video"]
    found = json.loads(said(capsys, *words, "--json"))
    assert len(found) == 3 == len([row for row in rows if "the same" not in row])
    for hit, row in zip(found, (row for row in rows if "the same" not in row), strict=True):
        assert row.endswith(hit["place"]["video"])
        assert f"0:{hit['place']['start_seconds']:04.1f} to" in row
        assert hit.keys() == {"file", "place", "score", "cosine", "match", "confident", "also"}


def test_no_confident_match_is_said(folder, exported, capsys, monkeypatch):
    from stoa.search.index import Index

    made = Index.__init__

    def with_a_high_threshold(self, *arguments):
        made(self, *arguments)
        self.threshold = 2.0

    monkeypatch.setattr(Index, "__init__", with_a_high_threshold)
    words = ("search", "a light", "--index", folder, "--model", exported)
    assert said(capsys, *words).startswith("no confident match; the nearest has a cosine of ")
    assert json.loads(said(capsys, *words, "--json")) == []


def test_parts_found_are_cut(folder, exported, capsys, tmp_path):
    picture = folder / "3.mp4"
    words = ("search", "--image", picture, "--index", folder, "--model", exported, "--top_k", 1, "--cut", tmp_path)
    out = said(capsys, *words).splitlines()[-1]
    (written,) = tmp_path.glob("*.mp4")
    assert str(written) == out
    assert written.name.startswith("01-3-")
    assert main(["caption", str(written), "--model", exported]) == 0


def test_captions_and_answers(folder, exported, capsys):
    one = said(capsys, "caption", folder / "0.mp4", "--model", exported).strip()
    both = said(capsys, "caption", folder / "0.mp4", folder / "1.mp4", "--model", exported).splitlines()
    assert both[0] == f"{folder / '0.mp4'}: {one}"
    told = json.loads(said(capsys, "caption", folder / "0.mp4", "--model", exported, "--json"))
    assert told == [{"video": str(folder / "0.mp4"), "caption": one}]
    answer = said(capsys, "ask", folder / "0.mp4", "what?", "--options", "[a square,a circle]", "--model", exported)
    assert answer.strip() in ("a square", "a circle")


def test_a_model_that_was_not_trained_on_questions_says_so(folder, exported, capsys):
    words = ("ask", str(folder / "0.mp4"), "what?", "--model", str(exported))
    assert main([*words]) == 0
    out, err = capsys.readouterr()
    assert out.strip()
    assert f"{exported} was not trained on questions and describes the clip; give it --options" in err
    assert main([*words, "--options", "[a square,a circle]"]) == 0
    assert "questions" not in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["search", "--index", "{folder}"], "give either a text to look for"),
        (["search", "a", "--image", "b.png", "--index", "{folder}"], "give either a text to look for"),
        (["search", "", "--index", "{folder}"], "the text is empty"),
        (["search", "a", "--index", "{folder}", "--top_k", "0"], "top_k is 0"),
        (["search", "a", "--index", "{folder}", "--rerank", "-1"], "--rerank is -1"),
        (["search", "a", "--index", "{folder}/below"], "holds no index; make one with stoa index"),
        (["index", "{folder}/nothing"], "nothing, which is no folder"),
        (["index", "{folder}/below", "--detections", "{folder}/nothing"], "--detections is .*nothing, which is no"),
        (["index", "{folder}", "--windows.seconds", "0"], "windows.seconds is 0"),
        (["ask", "{folder}/0.mp4", " "], "the question is empty"),
        (["caption", "{folder}/junk.mp4"], "junk.mp4"),
        (["caption", "{folder}/nothing.mp4"], "nothing.mp4.*does not exist"),
        (["caption", "{folder}/0.mp4", "--start_seconds", "9"], "start_seconds 9 is not before the end"),
    ],
)
def test_mistakes_are_one_line(folder, exported, capsys, words, message):
    import re

    line = refused(capsys, *(word.format(folder=folder) for word in words), "--model", exported)
    assert re.search(message, line), line


def test_questions_in_other_languages_break_nothing(folder, exported, capsys):
    for text in ("ein rotes Quadrat bewegt sich", "赤い四角が動く", "🟥➡️", "a" * 5000, "\u202eabc\x00"):
        assert said(capsys, "search", text, "--index", folder, "--model", exported)
