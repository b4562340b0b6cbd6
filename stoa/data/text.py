"""CLIP's byte-pair encoding, with masks of nouns and verbs from character spans."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
from open_clip.tokenizer import SimpleTokenizer

from stoa.manifest import Caption, Span


@dataclass(frozen=True, slots=True)
class EncodedCaption:
    """A caption padded to L tokens; see :class:`stoa.batch.VideoTextBatch` for the fields, here all (L,)."""

    tokens_L: np.ndarray
    text_mask_L: np.ndarray
    noun_mask_L: np.ndarray
    verb_mask_L: np.ndarray
    word_end_L: np.ndarray
    noun_labels_L: np.ndarray


@cache
def tokenizer() -> SimpleTokenizer:
    """open_clip's tokenizer; its vocabulary ships in the package."""
    return SimpleTokenizer()


def encode_caption(caption: Caption, max_tokens: int) -> EncodedCaption:
    """Encode as start, words, end, padding. A longer caption is cut and keeps its end token."""
    whole = _pieces(caption.text)
    pieces = whole[: max_tokens - 2]
    n = len(pieces) + 2
    tokens = np.zeros(max_tokens, dtype=np.int64)
    tokens[:n] = [tokenizer().sot_token_id, *(piece for piece, _ in pieces), tokenizer().eot_token_id]
    masks = {kind: np.zeros(max_tokens, dtype=bool) for kind in ("nouns", "verbs")}
    word_end, noun_labels = np.zeros(max_tokens, dtype=bool), np.full(max_tokens, -1, dtype=np.int64)
    for kind, mask in masks.items():
        spans = _spans_after_cleaning(caption.text, getattr(caption, kind))
        labels = caption.noun_labels if kind == "nouns" and caption.noun_labels else (-1,) * len(spans)
        for (start, end), label in zip(spans, labels, strict=True):
            inside = [i for i, (_, (s, e)) in enumerate(whole, start=1) if s < end and start < e]
            mask[[i for i in inside if i < n - 1]] = True
            if inside and inside[-1] < n - 1:
                word_end[inside[-1]] = True
                noun_labels[inside[-1]] = label
    return EncodedCaption(tokens, np.arange(max_tokens) < n, masks["nouns"], masks["verbs"], word_end, noun_labels)


def word_ending_at(tokens_L: Sequence[int], position: int) -> str:
    """The word whose last BPE piece stands at ``position``."""
    pieces = [tokenizer().decoder[int(tokens_L[position])]]
    for token in reversed(tokens_L[1:position]):
        piece = tokenizer().decoder[int(token)]
        if piece.endswith("</w>"):
            break
        pieces.insert(0, piece)
    raw = bytes(tokenizer().byte_decoder[c] for c in "".join(pieces).removesuffix("</w>"))
    return raw.decode("utf-8", errors="replace")


def used_token_ids(captions: Iterable[Caption]) -> list[int]:
    """Sorted ids of all tokens that occur, start and end included."""
    ids = {tokenizer().sot_token_id, tokenizer().eot_token_id}
    for caption in captions:
        ids.update(piece for piece, _ in _pieces(caption.text))
    return sorted(ids)


def foreign_script_share(captions: Sequence[Caption]) -> float:
    """Share of captions whose letters are mostly not Latin; CLIP's vocabulary cuts those into bytes."""
    foreign = 0
    for caption in captions:
        if not caption.text.isascii():
            letters = [c for c in caption.text if c.isalpha()]
            foreign += sum(ord(c) >= 0x250 for c in letters) * 2 > len(letters)
    return foreign / max(1, len(captions))


def _pieces(text: str) -> list[tuple[int, Span]]:
    """(token id, character span of its word in the cleaned text) of every BPE piece."""
    bpe = tokenizer()
    out: list[tuple[int, Span]] = []
    for match in bpe.pat.finditer(bpe.clean_fn(text)):
        word = "".join(bpe.byte_encoder[b] for b in match.group().encode("utf-8"))
        out.extend((bpe.encoder[piece], match.span()) for piece in bpe.bpe(word).split(" "))
    return out


def _spans_after_cleaning(text: str, spans: tuple[Span, ...]) -> list[Span]:
    """Move character spans of the raw caption to the text the tokenizer sees (mojibake and HTML mended,
    blanks collapsed, lower case). A span of which nothing is left becomes empty."""
    cleaned = tokenizer().clean_fn(text)
    lowered = [c.lower() for c in text]
    if not spans or (cleaned == "".join(lowered) and len(cleaned) == len(text)):
        return list(spans)
    origin = [i for i, c in enumerate(lowered) for _ in c]  # a few letters grow in lower case
    matcher = difflib.SequenceMatcher(None, "".join(lowered), cleaned, autojunk=False)
    target = {origin[a + i]: b + i for a, b, size in matcher.get_matching_blocks() for i in range(size)}
    moved = []
    for start, end in spans:
        places = [target[i] for i in range(start, end) if i in target]
        moved.append((min(places), max(places) + 1) if places else (0, 0))
    return moved
