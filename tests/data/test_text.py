"""CLIP's BPE and the masks of nouns and verbs."""

import html
import json
import re

import numpy as np
import open_clip
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from stoa.data.text import (
    encode_caption,
    foreign_script_share,
    tokenizer,
    used_token_ids,
    word_ending_at,
    word_spans,
)
from stoa.manifest import Caption


def spans(text: str, *words: str) -> tuple[tuple[int, int], ...]:
    return tuple((text.index(word), text.index(word) + len(word)) for word in words)


def marked(caption: Caption, kind: str, max_tokens: int = 32) -> list[str]:
    encoded = encode_caption(caption, max_tokens)
    mask = getattr(encoded, f"{kind}_mask_L")
    return [tokenizer().decode([int(t)]).strip() for t, hit in zip(encoded.tokens_L, mask, strict=True) if hit]


def bytes_of(token: int) -> bytes:
    bpe = tokenizer()
    return bytes(bpe.byte_decoder[c] for c in bpe.decoder[int(token)].removesuffix("</w>"))


def marked_bytes(text: str, span: tuple[int, int]) -> list[bytes]:
    """Of the tokens that one noun marks, which must be neighbours. There is room for the whole text."""
    encoded = encode_caption(Caption(text, (span,)), 2 * len(text.encode()) + 2)
    positions = np.flatnonzero(encoded.noun_mask_L)
    assert (np.diff(positions) == 1).all()
    return [bytes_of(token) for token in encoded.tokens_L[positions]]


@pytest.mark.parametrize(
    "text",
    ["a dog runs", "It's  a DOG!", "naïve café", "&amp; more &lt;b&gt;", "2 dogs, 10 cats", "犬が走る", "x" * 300],
)
@pytest.mark.parametrize("max_tokens", [8, 32, 77])
def test_ids_equal_open_clip(text, max_tokens):
    encoded = encode_caption(Caption(text), max_tokens)
    expected = open_clip.tokenize([text], context_length=max_tokens)[0]
    assert torch.equal(torch.from_numpy(encoded.tokens_L), expected)
    n = int(encoded.text_mask_L.sum())
    assert encoded.text_mask_L[:n].all()
    assert encoded.tokens_L[n - 1] == tokenizer().eot_token_id


def test_ids_equal_the_original_tokenizer(real_data):
    """Special tokens in a caption and a caption that is too long included."""
    items = json.loads((real_data / "clip_bpe" / "clip_bpe_vectors.json").read_text())["items"]
    assert len(items) == 224
    assert any(item["too_long"] for item in items)
    for item in items:
        encoded = encode_caption(Caption(item["text"]), 77)
        n = min(item["n"], 77)
        assert encoded.tokens_L[:n].tolist() == item["ids77"], item["text"]
        assert encoded.text_mask_L.sum() == n
        assert not encoded.tokens_L[n:].any()


def test_every_word_of_the_original_vectors_is_marked_alone(real_data):
    items = json.loads((real_data / "clip_bpe" / "clip_bpe_vectors.json").read_text())["items"]
    clean = tokenizer().clean_fn
    placed = total = 0
    for text in (item["text"] for item in items):
        for match in re.finditer(r"[^\W\d_]+", text):
            found = b"".join(marked_bytes(text, match.span()))
            total += 1
            placed += bool(found)
            assert not found or clean(match.group()).encode() in found, (text, match)
    assert placed > 0.98 * total


def test_masks_cover_every_piece_of_a_word():
    text = "a skateboarder unicycles past the woman's dog"
    caption = Caption(text, spans(text, "skateboarder", "woman", "dog"), spans(text, "unicycles"))
    assert "".join(marked(caption, "noun")) == "skateboarderwomandog"
    assert "".join(marked(caption, "verb")) == "unicycles"


def test_masks_survive_cleaning():
    """HTML entities, repeated blanks and mojibake move the characters."""
    text = "the &amp; dog   runs in the cafÃ© garden"
    caption = Caption(text, spans(text, "dog", "garden"), spans(text, "runs"))
    assert marked(caption, "noun") == ["dog", "garden"]
    assert marked(caption, "verb") == ["runs"]


@pytest.mark.parametrize(
    ("text", "word", "tokens"),
    [
        ("we don't run", "don", ["don"]),
        ("we don't run", "do", ["don"]),  # taggers cut "do" + "n't", CLIP "don" + "'t"
        ("the girl's hat", "girl", ["girl"]),
        ("the girl’s hat", "girl", ["girl"]),
        ("the girl&#39;s hat", "girl", ["girl"]),
        ("a red t-shirt.", "t-shirt", ["t", "-", "shirt"]),
        ("a ball&amp;chain", "chain", ["chain"]),
        ("a caf&eacute; table", "caf&eacute;", ["café"]),
        ("&amp;amp; amp", "amp", []),  # the first "amp" is part of an entity
        ("a (dog), cat", "dog", ["dog"]),
        ("&lt;b&gt;dog&lt;/b&gt;", "dog", ["dog"]),
        ("DOG \n runs", "DOG", ["dog"]),
        ("5kg dog", "kg", ["kg"]),
        ("the ﬁsh", "ﬁsh", ["fish"]),
        ("a cafe\u0301 table", "cafe\u0301", ["café"]),
    ],
)
def test_tokens_of_a_span(text, word, tokens):
    assert marked(Caption(text, spans(text, word)), "noun") == tokens


def test_words_without_blanks_between_them():
    """CLIP takes a run of letters for one word; only the bytes of the noun are marked."""
    text = "犬が走る公園"
    for start, end in ((0, 1), (4, 6)):
        encoded = encode_caption(Caption(text, ((start, end),)), 32)
        inside = [bytes_of(token) for token in encoded.tokens_L[encoded.noun_mask_L]]
        outside = [bytes_of(token) for token in encoded.tokens_L[1 : encoded.text_mask_L.sum() - 1]]
        assert text[start:end].encode() in b"".join(inside)
        assert b"".join(outside) == text.encode()
        assert len(b"".join(inside)) < len(text.encode())


def test_equal_words_are_not_taken_for_each_other():
    """Blanks that vanish must not shift a mark to the next equal word."""
    text = "&amp; dog  cat  dog  cat dog"
    starts = [match.start() for match in re.finditer("dog", text)]
    for index, start in enumerate(starts):
        encoded = encode_caption(Caption(text, ((start, start + 3),)), 32)
        assert np.flatnonzero(encoded.noun_mask_L).tolist() == [2 + 2 * index]


MENDED = {
    "plain": str,
    "upper": str.upper,
    "references": lambda word: "".join(f"&#{ord(c)};" for c in word),
    "escaped twice": lambda word: html.escape(html.escape(word)),
    "mojibake": lambda word: word.encode("utf-8").decode("sloppy-windows-1252"),
}
WORDS = [
    "dog",
    "café",
    "girl",
    "skateboarder",
    "naïve",
    "犬",
    "собака",
    "A&B",
    "smørrebrød",
    "unicycles",
    "ﬁsh",
    "ｄｏｇ",
]
SEPARATORS = [" ", "  ", "\n", "&nbsp;", ", ", " &amp; ", " &lt;b&gt; ", " “", "” ", "'s ", ". "]


@settings(max_examples=300)
@given(st.lists(st.tuples(st.sampled_from(WORDS), st.sampled_from(sorted(MENDED)), st.sampled_from(SEPARATORS))))
@example([("café", "plain", "  "), ("犬", "mojibake", " ")])  # not mended, for the é beside it
def test_marks_never_slip_to_another_word(drawn):
    """Each word marked by itself: its tokens spell it; mojibake, which is mended or not as the whole text decides, may
    have what it spells unmended, or nothing."""
    text, places = "", []
    for word, how, separator in drawn:
        raw = MENDED[how](word)
        places.append((len(text), len(text) + len(raw)))
        text += raw + separator
    sequence = {span: b"".join(marked_bytes(text, span)).decode() for span in places}
    mojibake = any(how == "mojibake" for _, how, _ in drawn)
    for span, found in sequence.items():
        raw = text[slice(*span)]
        allowed = {tokenizer().clean_fn(raw)} | ({"", raw.lower()} if mojibake else set())
        assert found in allowed, (text, span)


@settings(max_examples=100)
@given(st.text(max_size=60), st.data())
def test_any_text_and_any_span_encode(text, data):
    edges = sorted(data.draw(st.lists(st.integers(0, len(text)), min_size=2, max_size=2, unique=True)) if text else [])
    encoded = encode_caption(Caption(text, (tuple(edges),) if edges else ()), 16)
    if "_of_text>" not in text.lower() and "oftext|>" not in text.lower():  # the special tokens, spelled differently
        assert torch.equal(torch.from_numpy(encoded.tokens_L), open_clip.tokenize([text], context_length=16)[0])
    assert not (encoded.noun_mask_L & ~encoded.text_mask_L).any()
    assert encoded.word_end_L.sum() <= 1


@pytest.mark.parametrize("max_tokens", range(3, 12))
def test_cutting_drops_marks_and_moves_none(max_tokens):
    text = "the  unicyclist &amp; a skateboarder's dog"
    caption = Caption(text, spans(text, "unicyclist", "skateboarder", "dog"), (), (5, 6, 7))
    whole, cut = encode_caption(caption, 32), encode_caption(caption, max_tokens)
    kept = int(cut.text_mask_L.sum()) - 1
    for field in ("tokens_L", "noun_mask_L", "word_end_L", "noun_labels_L"):
        assert (getattr(cut, field)[:kept] == getattr(whole, field)[:kept]).all(), field
    assert not cut.noun_mask_L[kept:].any()


def test_a_long_caption_with_many_nouns():
    text = "the dog &amp; the cat  " * 500
    nouns = tuple(match.span() for match in re.finditer("dog|cat", text))
    assert marked(Caption(text, nouns), "noun", max_tokens=12) == ["dog", "cat", "dog", "cat"]


def test_a_word_cut_off_has_no_mask():
    text = "a dog runs after a cat"
    caption = Caption(text, spans(text, "dog", "cat"))
    assert marked(caption, "noun", max_tokens=5) == ["dog"]


def test_the_last_piece_of_a_word_stands_for_it():
    """Two nouns in a row are two words; a word that is cut off is none; every noun carries its class."""
    text = "a hotdog stand worker unicycles"
    caption = Caption(text, spans(text, "hotdog", "stand", "worker"), spans(text, "unicycles"), (4, -1, 9))
    encoded = encode_caption(caption, 32)
    nouns = np.flatnonzero(encoded.noun_mask_L & encoded.word_end_L)
    assert [word_ending_at(encoded.tokens_L.tolist(), i) for i in nouns] == ["hotdog", "stand", "worker"]
    assert encoded.noun_labels_L[nouns].tolist() == [4, -1, 9]
    assert (np.delete(encoded.noun_labels_L, nouns) == -1).all()
    (verb,) = np.flatnonzero(encoded.verb_mask_L & encoded.word_end_L)
    assert encoded.verb_mask_L.sum() > 1
    assert word_ending_at(encoded.tokens_L.tolist(), verb) == "unicycles"
    cut = encode_caption(caption, int(verb) + 1)  # room for all but the verb's last piece
    assert cut.verb_mask_L.any()
    assert not (cut.verb_mask_L & cut.word_end_L).any()
    assert (cut.noun_mask_L & cut.word_end_L).sum() == 3


def test_used_tokens_are_those_that_occur():
    captions = [Caption("a dog"), Caption("a cat")]
    expected = {int(t) for c in captions for t in encode_caption(c, 6).tokens_L[:4]}
    assert set(used_token_ids(captions)) == expected
    assert used_token_ids(captions) == sorted(expected)


def test_share_of_other_scripts():
    captions = [Caption("a dog"), Caption("犬が走る"), Caption("собака бежит"), Caption("naïve café")]
    assert foreign_script_share(captions) == 0.5


@pytest.mark.parametrize("text", ["a dog runs", "a skateboarder, falling", "the café opens", "x"])
def test_spans_of_words_cover_all_pieces(text):
    encoded = encode_caption(Caption(text), 16)
    tokens = encoded.tokens_L[encoded.text_mask_L].tolist()
    spans = word_spans(tokens)
    assert [word_ending_at(tokens, end - 1) for _, end in spans] == re.findall(r"\w+|,", text)
    assert [place for span in spans for place in range(*span)] == list(range(1, len(tokens) - 1))
    cut = tokens[:2] + tokens[-1:]
    assert word_spans(cut) == [(1, 2)]
    assert word_spans([tokens[0], tokens[-1]]) == []


@pytest.mark.parametrize(
    ("text", "word"), [("a dog runs", "dog"), ("a skateboarder falls", "skateboarder"), ("the café opens", "café")]
)
def test_a_word_is_read_back_from_its_last_piece(text, word):
    start = text.index(word)
    encoded = encode_caption(Caption(text, ((start, start + len(word)),)), 16)
    (position,) = np.flatnonzero(encoded.noun_mask_L & encoded.word_end_L)
    assert word_ending_at(encoded.tokens_L.tolist(), int(position)) == word
