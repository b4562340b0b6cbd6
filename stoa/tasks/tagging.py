"""Nouns and verbs of a caption that no manifest has tagged."""

from __future__ import annotations

import importlib.util
import os
import re
from typing import NamedTuple

from stoa.manifest import Caption, Span
from stoa.prepare.pipelines import PIPELINE, installed_pipeline
from stoa.synthetic.captions import PHRASES
from stoa.synthetic.scene import COLOURS, SHAPES

_WORD = re.compile(r"\w+(?:['’]\w+)*")
_VERBS = {verb for phrases in PHRASES.values() for verb, _ in phrases}
_REST = {word for phrases in PHRASES.values() for _, rest in phrases for word in re.findall(r"\b(?<!{)\w+\b", rest)}
_MOVING_SHAPES = {*SHAPES, *COLOURS, *_VERBS, *_REST, *("a", "an", "the", "and", "as", "while", "to")}


class TaggedCaption(NamedTuple):
    """A caption with spans of its nouns and verbs, and how they were found, for people."""

    caption: Caption
    by: str


def tag_caption(text: str, spacy: str | os.PathLike[str] | None = None) -> TaggedCaption:
    """Find the nouns and the main verbs of a caption.

    A named pipeline tags it. Without one a caption whose words are all of Moving Shapes is tagged as its makers would;
    another one by ``en_core_web_sm`` if that is installed. Where it is not, every word may be a noun and a verb.

    Args:
        text: the caption.
        spacy: a pipeline, by name or folder.

    Raises:
        ValueError: the caption has no word, or the pipeline cannot be used.
    """
    text = text.encode("utf-8", "replace").decode()  # of a command line that is no UTF-8
    words = [(match.group().lower(), match.span()) for match in _WORD.finditer(text)]
    if not words:
        raise ValueError(f"the caption is {text!r}; expected at least one word")
    if spacy is not None:
        return _by_pipeline(text, spacy)
    if all(word in _MOVING_SHAPES for word, _ in words):
        nouns, verbs = (_spans(words, vocabulary) for vocabulary in (set(SHAPES), _VERBS))
        return TaggedCaption(Caption(text, nouns, verbs), "from the vocabulary of Moving Shapes")
    if importlib.util.find_spec("spacy") and installed_pipeline(PIPELINE):
        return _by_pipeline(text, PIPELINE)
    every = tuple(span for _, span in words)
    by = f"not known, every word may be either (spaCy with {PIPELINE} is not installed)"
    return TaggedCaption(Caption(text, every, every), by)


def _by_pipeline(text: str, spacy: str | os.PathLike[str]) -> TaggedCaption:
    from stoa.prepare.tagging import Tagger

    tagger = Tagger.load(spacy)
    return TaggedCaption(next(tagger.tag([text])), f"by spaCy's {tagger.name}")


def _spans(words: list[tuple[str, Span]], vocabulary: set[str]) -> tuple[Span, ...]:
    return tuple(span for word, span in words if word in vocabulary)
