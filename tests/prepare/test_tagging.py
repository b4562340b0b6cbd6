"""Nouns and verbs of captions: what counts, where the spans stand, and what is said when there is no tagger."""

from __future__ import annotations

import re
import sys
from itertools import count, islice
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from tagger import baseline_f1, f1, read_conllu

from stoa.manifest import Caption
from stoa.prepare.config import PrepareConfig
from stoa.prepare.pipelines import FROM_PYPI, PIPELINE
from stoa.prepare.tagging import Tagger

if TYPE_CHECKING:
    from spacy.language import Language
    from spacy.tokens import Doc

NOUNS = {"dog", "girl", "café", "ball", "犬"}
VERBS = {"runs", "throws", "do"}


def blank(name: str = "en") -> Language:
    import spacy

    return spacy.blank(name)


def english() -> Language:
    """The pipeline that the project uses, as PyPI has it."""
    import spacy

    return spacy.load(FROM_PYPI)


def by_list(doc: Doc) -> Doc:
    for token in doc:
        token.pos_ = "NOUN" if token.text in NOUNS else "VERB" if token.text in VERBS else "X"
    return doc


@pytest.fixture
def listed() -> Tagger:
    """A pipeline that knows a few words for certain."""
    from spacy.language import Language

    Language.component("by_list", assigns=["token.pos"], func=by_list)
    nlp = blank()
    nlp.add_pipe("by_list")
    return Tagger(nlp)


def words(caption: Caption) -> tuple[list[str], list[str]]:
    nouns, verbs = ([caption.text[start:end] for start, end in spans] for spans in (caption.nouns, caption.verbs))
    return nouns, verbs


def score(tagger: Tagger, sentences: list, kind: str) -> float:
    found = tagger.tag(sentence.text for sentence in sentences)
    return f1((set(getattr(caption, kind)) for caption in found), [s.spans(kind) for s in sentences])


def test_the_pipeline_by_default_is_that_of_pypi_where_spacys_own_is_not_installed():
    tagger = Tagger.load(PrepareConfig.spacy)
    assert tagger.name in (f"{PIPELINE} 3.8.0", f"{FROM_PYPI} 3.8.0")
    assert tagger.note is None


@pytest.mark.parametrize(
    ("text", "nouns", "verbs"),
    [
        ("a man slices a tomato on a cutting board", ["man", "tomato", "cutting", "board"], ["slices"]),
        ("people have been dancing in the street", ["people", "street"], ["dancing"]),
        ("two dogs are running &amp; a girl doesn't throw the ball", ["dogs", "girl", "ball"], ["running", "throw"]),
        ("Anna is tall", [], []),
    ],
)
def test_nouns_and_verbs_of_captions(text, nouns, verbs):
    (caption,) = Tagger.load(PIPELINE).tag([text])
    assert words(caption) == (nouns, verbs)


@pytest.mark.slow
def test_spans_agree_with_the_treebank(real_data):
    """Spans are compared, so the pipeline's own cut into words counts too; the baseline is given the true one."""
    treebank = real_data / "pos"
    train = list(read_conllu(treebank / "en_ewt-ud-train.conllu.gz"))
    test = list(read_conllu(treebank / "en_ewt-ud-test.conllu"))
    tagger = Tagger.load(PIPELINE)
    for kind in ("nouns", "verbs"):
        assert score(tagger, test, kind) > baseline_f1(train, test, kind) + 0.06, kind


@pytest.mark.slow
def test_penn_tags_alone_tell_main_verbs_from_auxiliaries(real_data):
    nlp = english()
    nlp.remove_pipe("attribute_ruler")
    test = list(islice(read_conllu(real_data / "pos" / "en_ewt-ud-test.conllu"), 800))
    tagger = Tagger(nlp)
    assert score(tagger, test, "nouns") > 0.8
    assert score(tagger, test, "verbs") > 0.85


@pytest.mark.parametrize(
    ("tagged", "nouns", "verbs"),
    [
        ("A/DT dog/NN has/VBZ been/VBN barking/VBG at/IN cats/NNS", ["dog", "cats"], ["barking"]),
        ("Bob/NNP is/VBZ tall/JJ and/CC has/VBZ hats/NNS", ["hats"], ["has"]),
        ("they/PRP do/VBP not/RB run/VB", [], ["run"]),
        ("what/WP have/VBP you/PRP done/VBN", [], ["done"]),
        ("he/PRP did/VBD it/PRP", [], ["did"]),
        ("she/PRP 's/VBZ ,/, well/UH ,/, 12/NN", [], []),
    ],
)
def test_what_counts_by_gold_penn_tags(tagged, nouns, verbs):
    from spacy.tokens import Doc

    forms, tags = zip(*(word.split("/") for word in tagged.split()), strict=True)
    nlp = blank()
    nlp.tokenizer = lambda text: Doc(nlp.vocab, words=forms, tags=tags)
    nlp.add_pipe("tagger").add_label("NN")
    nlp.get_pipe("tagger").add_label("VB")
    tagger = Tagger(nlp)
    nlp.disable_pipe("tagger")  # the tags are given
    assert [words(caption) for caption in tagger.tag([" ".join(forms) + " "])] == [(nouns, verbs)]


def test_proper_nouns_and_auxiliaries_do_not_count():
    from spacy.language import Language

    nlp = blank()
    pos = {"Rex": "PROPN", "is": "AUX", "a": "DET", "dog": "NOUN", "that": "PRON", "has": "AUX", "run": "VERB"}
    tags = {"Rex": "NN", "is": "VBZ", "has": "VBZ", "run": "NN"}  # pos_ goes first

    @Language.component("given", assigns=["token.pos"])
    def given(doc: Doc) -> Doc:
        for token in doc:
            token.pos_, token.tag_ = pos[token.text], tags.get(token.text, "")
        return doc

    nlp.add_pipe("given")
    (caption,) = Tagger(nlp).tag(["Rex is a dog that has run"])
    assert words(caption) == (["dog"], ["run"])


@pytest.mark.parametrize(
    ("text", "nouns", "verbs"),
    [
        ("", [], []),
        (" \n ", [], []),
        ("dog", ["dog"], []),
        ("a girl's dog, runs!", ["girl", "dog"], ["runs"]),
        ("a girl&#39;s dog &amp; a  ball", ["girl", "dog", "ball"], []),
        ("&lt;b&gt;dog&lt;/b&gt; &amp;quot;runs&amp;quot;", ["dog"], ["runs"]),
        ("<b>dog</b>&nbsp;runs", ["dog"], ["runs"]),
        ("the caf&eacute; dog", ["caf&eacute;", "dog"], []),
        ("the cafÃ© dog donâ€™t", ["cafÃ©", "dog"], ["do"]),
        ("girls don’t; the girl’s dog", ["girl", "dog"], ["do"]),
        ("🐕‍🦺 dog 犬 \x00 runs\u200b", ["dog", "犬"], []),
        ("\ud800 dog \udfff runs", ["dog"], ["runs"]),
        ("dog &unknown; ball &", ["dog", "ball"], []),
    ],
)
def test_spans_are_those_of_the_text_as_given(listed, text, nouns, verbs):
    (caption,) = listed.tag([text])
    assert caption.text == text
    assert words(caption) == (nouns, verbs)
    assert caption.noun_labels == ()


@pytest.mark.slow
def test_long_captions(listed):
    long = "a dog runs after the ball &amp; " * 313
    assert len(long) > 10_000
    (caption,) = listed.tag([long])
    assert words(caption) == (["dog", "ball"] * 313, ["runs"] * 313)
    endless = "the dog runs " * 100_000
    assert len(endless) > blank().max_length
    (caption,) = listed.tag([endless])
    assert set(words(caption)[0]) == {"dog"}
    assert caption.nouns[-1][1] < 20_000
    captions = list(Tagger.load(PIPELINE).tag([long, "x" * 30_000, endless]))
    assert "dog" in words(captions[0])[0]
    assert [len(caption.text) for caption in captions] == [len(long), 30_000, len(endless)]


def test_captions_stream_in_order(listed):
    taken = []

    def endless():
        for number in count():
            taken.append(number)
            yield f"{number} dog"

    tagged = list(islice(listed.tag(endless(), batch_size=4), 10))
    assert [caption.text for caption in tagged] == [f"{number} dog" for number in range(10)]
    assert all(words(caption) == (["dog"], []) for caption in tagged)
    assert len(taken) == 12


@pytest.mark.slow
def test_batches_do_not_change_the_spans(real_data):
    texts = [sentence.text for sentence in islice(read_conllu(real_data / "pos" / "en_ewt-ud-dev.conllu"), 100)]
    tagger = Tagger.load(PIPELINE)
    assert list(tagger.tag(texts, batch_size=7)) == list(tagger.tag(texts)) == [next(tagger.tag([t])) for t in texts]


def test_words_seen_are_forgotten():
    nlp = english()
    tagger = Tagger(nlp)
    list(tagger.tag(["a dog runs"]))
    known = len(nlp.vocab.strings)
    assert sum(len(c.text) > 0 for c in tagger.tag(f"unheard{i} of{i}" for i in range(200))) == 200
    assert len(nlp.vocab.strings) == known


def test_only_what_parts_of_speech_need_runs():
    nlp = english()
    assert {"parser", "ner", "lemmatizer"} <= set(nlp.pipe_names)
    Tagger(nlp)
    assert nlp.pipe_names == ["tok2vec", "tagger", "parser", "attribute_ruler"]  # its rules ask the parser


def test_without_rules_that_ask_it_the_parser_does_not_run():
    nlp = english()
    nlp.remove_pipe("attribute_ruler")
    nlp.add_pipe("attribute_ruler").add([[{"LOWER": "runs", "TAG": "NNS"}]], {"POS": "NOUN"})
    tagger = Tagger(nlp)
    assert nlp.pipe_names == ["tok2vec", "tagger", "attribute_ruler"]
    assert [len(caption.text) for caption in tagger.tag(["a dog runs"])] == [10]


def test_a_pipeline_without_a_tagger_is_named(tmp_path):
    with pytest.raises(ValueError, match=r"'en_pipeline 0.0.0' has no tagger or morphologizer \(components: none\)"):
        Tagger(blank())
    nlp = blank()
    nlp.add_pipe("sentencizer")
    nlp.to_disk(tmp_path / "sentences")
    with pytest.raises(ValueError, match=r"\(components: sentencizer\); use one that has, .*, or --spacy null "):
        Tagger.load(tmp_path / "sentences")


def test_other_tags_than_penns_are_refused():
    nlp = blank("de")
    for label in ("NN", "VVFIN"):
        (nlp.get_pipe("tagger") if "tagger" in nlp.pipe_names else nlp.add_pipe("tagger")).add_label(label)
    with pytest.raises(ValueError, match=r"its tags are not those of the Penn Treebank \(NN, VVFIN, \.\.\.\)"):
        Tagger(nlp)
    nlp.add_pipe("attribute_ruler")
    assert Tagger(nlp).name == "de_pipeline 0.0.0"


def test_a_missing_pipeline_is_named(tmp_path, monkeypatch):
    installed = re.escape("'python -m spacy download en_core_web_sm' (installed: ")
    other = "name another one or a folder with --spacy, or --spacy null leaves captions untagged$"
    with pytest.raises(
        ValueError, match=rf"'en_core_web_xs' is neither installed nor a folder; .*{installed}.*{other}"
    ):
        Tagger.load("en_core_web_xs")
    monkeypatch.setattr("spacy.util.get_installed_models", lambda: ["fr_b", "de_a"])
    with pytest.raises(ValueError, match=r"\(installed: de_a, fr_b\)"):
        Tagger.load(tmp_path / "absent")


def test_a_broken_pipeline_is_named(tmp_path):
    with pytest.raises(ValueError, match=r"does not load: \[E053\][^\n]*$"):
        Tagger.load(tmp_path)


def test_missing_spacy_is_said(monkeypatch):
    monkeypatch.setitem(sys.modules, "spacy", None)
    with pytest.raises(
        ValueError, match=r"needs spaCy, which is not installed: pip install '\.\[tag\]' .*, or --spacy null "
    ):
        Tagger.load("en_core_web_sm")


@pytest.fixture
def saved(tmp_path) -> Path:
    """A pipeline with parts of speech and a version of spaCy to change."""
    from spacy.language import Language

    Language.component("by_list", assigns=["token.pos"], func=by_list)
    nlp = blank()
    nlp.add_pipe("by_list")
    nlp.to_disk(tmp_path / "saved")
    return tmp_path / "saved"


def changed(folder: Path, file: str, change) -> Path:
    (folder / file).write_text(change((folder / file).read_text()))
    return folder


OLD = re.compile(r'"spacy_version":"[^"]*"')


@pytest.mark.parametrize("version", [">=3.0.0,<3.1.0", ">=2.3.0,<2.4.0", ">=4.0.0,<4.1.0"])
def test_a_pipeline_of_another_spacy_is_said(saved, version):
    assert Tagger.load(saved).note is None
    changed(saved, "meta.json", lambda text: OLD.sub(f'"spacy_version":"{version}"', text))
    note = Tagger.load(saved).note
    assert note.startswith("[W095] Model 'en_pipeline' (0.0.0) was trained with spaCy") and "\n" not in note


def test_a_pipeline_of_another_spacy_that_does_not_load_is_said(saved):
    changed(saved, "meta.json", lambda text: OLD.sub('"spacy_version":">=2.3.0,<2.4.0"', text))
    changed(saved, "config.cfg", lambda text: text.replace('factory = "by_list"', 'factory = "absent"'))
    with pytest.raises(
        ValueError, match=r"does not load: \[E002\].* \(\[W095\] .*\); use one made for spaCy 3[^\n]*null"
    ):
        Tagger.load(saved)


def test_a_pipeline_that_does_not_run_is_said(tmp_path):
    nlp = blank()
    tagger = nlp.add_pipe("tagger")
    for label in ("NN", "VB"):
        tagger.add_label(label)
    nlp.to_disk(tmp_path / "untrained", exclude=["tagger"])
    with pytest.raises(ValueError, match=r"does not load: [^\n]+; use one made for spaCy "):
        Tagger.load(tmp_path / "untrained")


def test_gold_spans_of_contractions(tmp_path):
    """CoNLL-U gives a contraction a line of its own and no offsets: gold spans must not slip."""
    path = tmp_path / "x.conllu"
    rows = ["1\tDogs\tdog\tNOUN\tNNS", "2-3\tdon't\t_\t_\t_", "2\tdo\tdo\tAUX\tVBP", "3\tn't\tnot\tPART\tRB"]
    rows += ["4\tdo\tdo\tVERB\tVB", "4.1\telided\telide\tVERB\tVB", "5\tdogs\tdog\tNOUN\tNNS"]
    path.write_text("# text = Dogs don't do dogs\n" + "".join(f"{row}\t_\t_\t_\t_\t_\n" for row in rows) + "\n")
    (sentence,) = read_conllu(path)
    assert sentence.spans("nouns") == {(0, 4), (14, 18)}
    assert sentence.spans("verbs") == {(11, 13)}
    assert sentence.doc(blank()).text == sentence.text
