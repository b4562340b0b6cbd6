"""How well nouns and verbs agree with those of a treebank, UD English EWT."""

from __future__ import annotations

import gzip
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from stoa.manifest import Span

if TYPE_CHECKING:  # all processes of the tests collect this, one or two of them use it
    from spacy.language import Language
    from spacy.tokens import Doc

KINDS = {"nouns": "NOUN", "verbs": "VERB"}


@dataclass(frozen=True)
class Word:
    start: int
    end: int
    pos: str
    tag: str


@dataclass(frozen=True)
class Sentence:
    text: str
    words: tuple[Word, ...]

    def spans(self, kind: str) -> set[Span]:
        """Of its ``nouns`` or ``verbs``."""
        return {(word.start, word.end) for word in self.words if word.pos == KINDS[kind]}

    def doc(self, nlp: Language) -> Doc:
        from spacy.tokens import Doc

        forms = [self.text[word.start : word.end] for word in self.words]
        starts = [word.start for word in self.words[1:]] + [len(self.text)]
        spaces = [start > word.end for word, start in zip(self.words, starts, strict=True)]
        tags, pos = ([getattr(word, field) for word in self.words] for field in ("tag", "pos"))
        return Doc(nlp.vocab, words=forms, spaces=spaces, tags=tags, pos=pos)


def read_conllu(path: Path) -> Iterator[Sentence]:
    """Sentences of a CoNLL-U file, https://universaldependencies.org/format.html, with words placed in their text."""
    text, words = "", []
    with gzip.open(path, "rt", encoding="utf-8") if path.suffix == ".gz" else open(path, encoding="utf-8") as file:
        for line in file:
            if line.startswith("# text = "):
                text = line.removeprefix("# text = ").rstrip("\n")
            elif line[0].isdigit():
                number, form, _, pos, tag, *_ = line.split("\t")
                if number.isdigit():  # neither a contraction's line (1-2) nor an elided word (1.1)
                    start = text.index(form, words[-1].end if words else 0)
                    words.append(Word(start, start + len(form), pos, tag))
            elif not line.strip():
                yield Sentence(text, tuple(words))
                words = []


def f1(found: Iterable[set[Span]], gold: Iterable[set[Span]]) -> float:
    """Over the spans of all sentences."""
    right = total = 0
    for ours, theirs in zip(found, gold, strict=True):
        right += len(ours & theirs)
        total += len(ours) + len(theirs)
    return 2 * right / total


def baseline_f1(train: Iterable[Sentence], test: Sequence[Sentence], kind: str) -> float:
    """Of giving each word of the gold segmentation the part of speech it has most often; a new word is a noun."""
    counts: dict[str, Counter[str]] = defaultdict(Counter)
    for sentence in train:
        for word in sentence.words:
            counts[sentence.text[word.start : word.end].lower()][word.pos] += 1
    usual = {form: count.most_common(1)[0][0] for form, count in counts.items()}
    found = [
        {(w.start, w.end) for w in s.words if usual.get(s.text[w.start : w.end].lower(), "NOUN") == KINDS[kind]}
        for s in test
    ]
    return f1(found, [s.spans(kind) for s in test])
