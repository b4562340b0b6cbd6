"""Common nouns and main verbs of captions, by any spaCy pipeline with a tagger."""

from __future__ import annotations

import html
import os
import re
import warnings
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import ftfy

from stoa.manifest import Caption, Span
from stoa.prepare.pipelines import PIPELINE, installed_pipeline

if TYPE_CHECKING:
    from spacy.language import Language
    from spacy.tokens import Doc

# A text tower reads 77 tokens, and a parser takes 10 GB for a million characters.
_MAX_CHARACTERS = 20_000
# Longer ones are no words.
_MAX_WORD_CHARACTERS = 64
_LONE_SURROGATE = re.compile("[\ud800-\udfff]")
_MARKUP = re.compile(r"</?[A-Za-z][^<>]*>")
_NEEDED = {"token.pos", "token.tag", "token.morph", "doc.tensor", "doc._.trf_data"}
_NOUN_TAGS = ("NN", "NNS")
_BE = {"be", "am", "is", "are", "was", "were", "been", "being", "m", "re", "s"}
_HAVE_DO = {"have", "has", "had", "having", "ve", "d", "do", "does", "did"}

_WITHOUT = "--spacy null leaves captions untagged"


class _Unsuitable(ValueError):
    """A pipeline that loads and cannot serve."""


class Tagger:
    """Finds what a video can show: common nouns and main verbs.

    Nouns are the tokens with ``token.pos_`` NOUN (proper nouns are PROPN), verbs those with VERB (auxiliaries and the
    copula are AUX). Tokens to which the pipeline gives no ``pos_`` go by their Penn Treebank ``tag_``: NN and NNS; VB,
    VBD, VBG, VBN, VBP and VBZ without the forms of *be*, and without those of *have* and *do* before another verb.
    A token without a letter is neither. ``note`` is a line to show where the pipeline is of another version of spaCy.

    ``noun_labels`` stay empty: they are ground truth, which a noun that equals the name of a class is not.

    Args:
        nlp: the pipeline. Components that parts of speech do not depend on are disabled in it.

    Raises:
        ValueError: the pipeline gives neither parts of speech nor Penn Treebank tags.
    """

    def __init__(self, nlp: Language) -> None:
        self._nlp = nlp
        self.note: str | None = None
        self.name = f"{nlp.lang}_{nlp.meta['name']} {nlp.meta['version']}"
        _require_tagger(nlp, self.name)
        for pipe in [pipe for pipe in nlp.pipe_names if not _is_needed(nlp, pipe)]:
            nlp.disable_pipe(pipe)

    @classmethod
    def load(cls, name: str | os.PathLike[str]) -> Tagger:
        """Load a pipeline by the name of its package or the path of its folder.

        Raises:
            ValueError: spaCy or the pipeline is not installed, it does not load, or it has no tagger.
        """
        try:
            import spacy
        except ModuleNotFoundError as error:
            if error.name != "spacy":
                raise
            raise ValueError(
                "tagging captions needs spaCy, which is not installed: pip install '.[tag]' in the checkout, or "
                f"{_WITHOUT}"
            ) from None
        name = os.fspath(name)
        name = installed_pipeline(name) or name
        installed = spacy.util.get_installed_models()
        if name not in installed and not Path(name).exists():
            there = ", ".join(sorted(installed)) or "none"
            raise ValueError(
                f"spaCy pipeline {name!r} is neither installed nor a folder; install one with pip install '.[tag]' or "
                f"'python -m spacy download en_core_web_sm' (installed: {there}), name another one or a folder with "
                f"--spacy, or {_WITHOUT}"
            )
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            try:
                tagger = cls(spacy.load(name))
                next(tagger.tag(["a dog runs"]))
            except _Unsuitable as error:
                raise ValueError(f"{error}, or {_WITHOUT}") from None
            except Exception as error:  # of whatever a pipeline is made of
                note = _of_another_version(caught)
                raise ValueError(
                    f"spaCy pipeline {name!r} does not load: {_line(error)}{f' ({note})' if note else ''}; use one "
                    f"made for spaCy {spacy.about.__version__}, or {_WITHOUT}"
                ) from error
        tagger.note = _of_another_version(caught)
        return tagger

    def tag(self, captions: Iterable[str], batch_size: int = 2048) -> Iterator[Caption]:
        """Yield a :class:`Caption` for each text, in order, holding ``batch_size`` of them at a time.

        Spans are half-open, in characters of the text as given; the pipeline reads it with HTML entities and mojibake
        mended. Of a text of more than 20,000 characters the rest is not tagged.
        """
        texts = iter(captions)
        limit = min(_MAX_CHARACTERS, self._nlp.max_length)
        while batch := list(islice(texts, batch_size)):
            mended = [_mend_words(text[:limit]) for text in batch]
            # Without a zone spaCy keeps every word it has ever seen.
            with self._nlp.memory_zone():
                docs = self._nlp.pipe(readable for readable, _ in mended)
                tagged = [
                    Caption(text, _spans(doc, places, _is_noun), _spans(doc, places, _is_main_verb))
                    for text, (_, places), doc in zip(batch, mended, docs, strict=True)
                ]
            yield from tagged


def _of_another_version(caught: list[warnings.WarningMessage]) -> str | None:
    """What spaCy says of a pipeline that was made for another version of it."""
    texts = [str(warning.message) for warning in caught]
    found = next((text for text in texts if text.startswith(("[W094]", "[W095]"))), None)
    return None if found is None else " ".join(found.split())


def _line(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__


def _require_tagger(nlp: Language, name: str) -> None:
    assigned = {pipe: set(nlp.get_pipe_meta(pipe).assigns) for pipe in nlp.pipe_names}
    if any("token.pos" in attributes for attributes in assigned.values()):
        return
    taggers = [pipe for pipe, attributes in assigned.items() if "token.tag" in attributes]
    if not taggers:
        raise _Unsuitable(
            f"spaCy pipeline {name!r} has no tagger or morphologizer (components: {', '.join(assigned) or 'none'}); "
            f"use one that has, such as {PIPELINE}"
        )
    components: list[Any] = [nlp.get_pipe(pipe) for pipe in taggers]
    labels = {label for component in components for label in component.labels}
    has_rules = any(_factory(nlp, pipe) == "attribute_ruler" for pipe in nlp.pipe_names)
    if not has_rules and not {"NN", "VB"} <= labels:
        raise _Unsuitable(
            f"spaCy pipeline {name!r} gives no parts of speech, and its tags are not those of the Penn Treebank "
            f"({', '.join(sorted(labels)[:5])}, ...); add an attribute_ruler that maps them to token.pos"
        )


def _is_needed(nlp: Language, pipe: str) -> bool:
    """Whether parts of speech may depend on a component. One that does not tell what it assigns is kept."""
    assigns = set(nlp.get_pipe_meta(pipe).assigns)
    if "token.dep" in assigns and _rules_read_dependencies(nlp):
        return True
    return not assigns or bool(assigns & _NEEDED)


def _rules_read_dependencies(nlp: Language) -> bool:
    """Whether the parser tells an auxiliary from a main verb, as in the English pipelines of spaCy."""
    rulers: list[Any] = [nlp.get_pipe(pipe) for pipe in nlp.pipe_names if _factory(nlp, pipe) == "attribute_ruler"]
    return any(
        "DEP" in token and "POS" in rule["attrs"]
        for ruler in rulers
        for rule in ruler.patterns
        for pattern in rule["patterns"]
        for token in pattern
    )


def _factory(nlp: Language, pipe: str) -> str:
    return nlp.get_pipe_meta(pipe).factory


def _spans(doc: Doc, places: list[Span], is_wanted: Callable[[Doc, int], bool]) -> tuple[Span, ...]:
    return tuple(
        (places[token.idx][0], places[token.idx + len(token) - 1][1])
        for token in doc
        if is_wanted(doc, token.i) and any(c.isalpha() for c in token.text)
    )


def _is_noun(doc: Doc, index: int) -> bool:
    token = doc[index]
    return token.pos_ == "NOUN" if token.pos_ else token.tag_ in _NOUN_TAGS


def _is_main_verb(doc: Doc, index: int) -> bool:
    token = doc[index]
    if token.pos_:
        return bool(token.pos_ == "VERB")
    form = token.lower_.strip("'’")
    if not token.tag_.startswith("VB") or form in _BE:
        return False
    if form not in _HAVE_DO:
        return True
    following = (later.tag_ for later in doc[index + 1 :] if later.tag_ not in ("RB", "RBR", "PRP"))
    return next(following, "") not in ("VB", "VBN")


def _mend_words(text: str) -> tuple[str, list[Span]]:
    """The text with HTML entities and mojibake mended, markup blanked and apostrophes straight, and for each of its
    characters the span it has come from."""
    parts: list[str] = []
    places: list[Span] = []
    for match in re.finditer(r"\s+|\S+", text):
        word, offset = match.group(), match.start()
        mended = _mend(word) if len(word) <= _MAX_WORD_CHARACTERS else word
        if mended == word:
            parts.append(word)
            places.extend((i, i + 1) for i in range(*match.span()))
            continue
        parts.append(mended)
        halves = [(_mend(word[:i]), _mend(word[i:])) for i in range(len(word) + 1)]
        cuts = {len(left): offset + i for i, (left, right) in enumerate(halves) if left + right == mended}
        places.extend(
            (cuts[max(cut for cut in cuts if cut <= i)], cuts[min(cut for cut in cuts if cut > i)])
            for i in range(len(mended))
        )
    readable = _MARKUP.sub(lambda tag: " " * len(tag.group()), "".join(parts))
    return _LONE_SURROGATE.sub("\ufffd", readable).replace("’", "'"), places


def _mend(word: str) -> str:
    if word.isascii() and "&" not in word:
        return word
    return html.unescape(html.unescape(ftfy.fix_encoding(word)))
