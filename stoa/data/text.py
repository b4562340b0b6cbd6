"""CLIP's byte-pair encoding, with masks of nouns and verbs from character spans."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING

import numpy as np
import regex  # type: ignore[import-untyped]

from stoa.manifest import Caption, Prompt, Span

if TYPE_CHECKING:
    from open_clip.tokenizer import SimpleTokenizer


@dataclass(frozen=True, slots=True)
class EncodedCaption:
    """A caption padded to L tokens; see :class:`stoa.batch.VideoTextBatch` for the fields, here of one clip."""

    tokens_L: np.ndarray
    text_mask_L: np.ndarray
    noun_mask_L: np.ndarray
    verb_mask_L: np.ndarray
    word_end_L: np.ndarray
    noun_labels_L: np.ndarray
    prefix: int = 0
    target: int = -1


@cache
def tokenizer() -> SimpleTokenizer:
    """open_clip's tokenizer; its vocabulary ships in the package."""
    from open_clip.tokenizer import SimpleTokenizer  # 0.7 GB with torch, which `stoa prepare` has no other use for

    return SimpleTokenizer()


@cache
def _words() -> regex.Pattern[str]:
    """What the tokenizer takes for one word, with the two special tokens as CLIP spells them: open_clip has renamed
    them, which the ids of a caption that quotes one would tell."""
    pattern = tokenizer().pat.pattern
    for renamed, original in (("<start_of_text>", "<|startoftext|>"), ("<end_of_text>", "<|endoftext|>")):
        pattern = pattern.replace(renamed, regex.escape(original))
    return regex.compile(pattern, regex.IGNORECASE)


def encode_caption(caption: Caption, max_tokens: int) -> EncodedCaption:
    """Encode as start, words, end, padding. A longer caption is cut and keeps its end token.

    The answer of a prompt follows its question, which is cut to leave room for it.
    """
    if isinstance(caption, Prompt):
        return _encode_prompt(caption, max_tokens)
    whole = _pieces(caption.text)
    pieces = whole[: max_tokens - 2]
    n = len(pieces) + 2
    reached = whole[: max_tokens - 1]  # the first piece that is cut off tells whether it ends a word or splits one
    tokens = np.zeros(max_tokens, dtype=np.int64)
    tokens[:n] = [tokenizer().sot_token_id, *(piece for piece, _ in pieces), tokenizer().eot_token_id]
    masks = {kind: np.zeros(max_tokens, dtype=bool) for kind in ("nouns", "verbs")}
    word_end, noun_labels = np.zeros(max_tokens, dtype=bool), np.full(max_tokens, -1, dtype=np.int64)
    for kind, mask in masks.items():
        spans = _spans_after_cleaning(caption.text, getattr(caption, kind), reached[-1][1][1] if reached else 0)
        labels = caption.noun_labels if kind == "nouns" and caption.noun_labels else (-1,) * len(spans)
        for (start, end), label in zip(spans, labels, strict=True):
            inside = [i for i, (_, (s, e)) in enumerate(reached, start=1) if s < end and start < e]
            mask[[i for i in inside if i < n - 1]] = True
            if inside and inside[-1] < n - 1:
                word_end[inside[-1]] = True
                noun_labels[inside[-1]] = label
    return EncodedCaption(tokens, np.arange(max_tokens) < n, masks["nouns"], masks["verbs"], word_end, noun_labels)


def _encode_prompt(prompt: Prompt, max_tokens: int) -> EncodedCaption:
    question, answer = ([piece for piece, _ in _pieces(text)] for text in (prompt.text, prompt.answer))
    answer = answer[: max_tokens - 2]
    question = question[: max_tokens - 2 - len(answer)]
    n = len(question) + len(answer) + 2
    tokens, none = np.zeros(max_tokens, dtype=np.int64), np.zeros(max_tokens, dtype=bool)
    tokens[:n] = [tokenizer().sot_token_id, *question, *answer, tokenizer().eot_token_id]
    mask_L, no_labels_L = np.arange(max_tokens) < n, np.full(max_tokens, -1, dtype=np.int64)
    prefix = 1 + len(question) if answer else 0
    return EncodedCaption(tokens, mask_L, none, none, none, no_labels_L, prefix, prompt.target)


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


def word_spans(tokens_n: Sequence[int]) -> list[tuple[int, int]]:
    """Half-open ranges of positions of the words of a text with start and end token and no padding."""
    ends = [i + 1 for i in range(1, len(tokens_n) - 1) if tokenizer().decoder[int(tokens_n[i])].endswith("</w>")]
    if not ends or ends[-1] < len(tokens_n) - 1:  # the last word is cut off
        ends.append(len(tokens_n) - 1)
    return [(start, end) for start, end in zip([1, *ends], ends, strict=False) if start < end]


def decode_tokens(token_ids: Sequence[int]) -> str:
    """The text that token ids spell, without start and end token."""
    bpe = tokenizer()
    special = (bpe.sot_token_id, bpe.eot_token_id)
    raw = bytearray()
    for token in token_ids:
        if token not in special:
            piece = bpe.decoder[int(token)]
            raw += bytes(bpe.byte_decoder[c] for c in piece.removesuffix("</w>"))
            raw += b" " * piece.endswith("</w>")
    return raw.decode("utf-8", errors="replace").strip()


def used_token_ids(captions: Iterable[Caption]) -> list[int]:
    """Sorted ids of all tokens that occur, start and end included."""
    ids = {tokenizer().sot_token_id, tokenizer().eot_token_id}
    for caption in captions:
        for text in (caption.text, caption.answer) if isinstance(caption, Prompt) else (caption.text,):
            ids.update(piece for piece, _ in _pieces(text))
    return sorted(ids)


def token_ids(caption: Caption) -> tuple[int, ...]:
    """Ids of all tokens of a caption, or of a question and its answer, without start and end."""
    texts = (caption.text, caption.answer) if isinstance(caption, Prompt) else (caption.text,)
    return tuple(piece for text in texts for piece, _ in _pieces(text))


def foreign_script_share(captions: Sequence[Caption]) -> float:
    """Share of captions whose letters are mostly not Latin; CLIP's vocabulary cuts those into bytes."""
    foreign = 0
    for caption in captions:
        if not caption.text.isascii():
            letters = [c for c in caption.text if c.isalpha()]
            foreign += sum(ord(c) >= 0x250 for c in letters) * 2 > len(letters)
    return foreign / max(1, len(captions))


def _pieces(text: str) -> list[tuple[int, Span]]:
    """(token id, span of the characters it spells in the cleaned text, in part or whole) of every BPE piece."""
    bpe = tokenizer()
    special = {"<|startoftext|>": bpe.sot_token_id, "<|endoftext|>": bpe.eot_token_id}
    out: list[tuple[int, Span]] = []
    # Of plain text cleaning changes no more than the blanks, and takes longer than all the rest.
    plain = text.isascii() and text.isprintable() and "&" not in text
    for match in _words().finditer(_collapse_blanks(text) if plain else bpe.clean_fn(text)):
        word, offset = match.group(), match.start()
        if word in special:
            out.append((special[word], (offset, offset)))  # spells nothing
            continue
        place = [i for i, c in enumerate(word, start=offset) for _ in c.encode("utf-8")]
        start = 0
        for piece in bpe.bpe("".join(bpe.byte_encoder[b] for b in word.encode("utf-8"))).split(" "):
            end = start + len(piece.removesuffix("</w>"))
            out.append((bpe.encoder[piece], (place[start], place[end - 1] + 1)))
            start = end
    return out


def _spans_after_cleaning(text: str, spans: tuple[Span, ...], reach: int) -> list[Span]:
    """Move character spans of the raw caption to the text the tokenizer sees (mojibake and HTML mended,
    blanks collapsed, lower case).

    Cleaning is local: what stands left and right of the edge of a word, cleaned apart, is the cleaned caption. An edge
    where that fails lies inside of what was mended, such as an HTML entity. A span with such an edge, or of which
    nothing is left, becomes empty, and so does one that starts at character ``reach`` of the cleaned caption or later.
    """
    clean = tokenizer().clean_fn
    cleaned = clean(text)
    if not spans or (cleaned == text.lower() and len(cleaned) == len(text)):
        return list(spans)
    if cleaned == _collapse_blanks(text):
        clean = _collapse_blanks  # most captions, and much cheaper

    def edge(cut: int) -> Span | None:
        """Where what stands left of it ends, and where what stands right of it starts."""
        left, right = clean(text[:cut]), clean(text[cut:])
        return (len(left), len(cleaned) - len(right)) if cleaned in (left + right, f"{left} {right}") else None

    moved = [(0, 0)] * len(spans)
    for index, (start, end) in sorted(enumerate(spans), key=lambda item: item[1]):
        left_edge, right_edge = edge(start), edge(end)
        if left_edge and left_edge[1] >= reach:
            break
        if left_edge and right_edge:
            moved[index] = (left_edge[1], right_edge[0])
    return moved


def _collapse_blanks(text: str) -> str:
    return " ".join(text.split()).lower()
