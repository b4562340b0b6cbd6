"""CLIP's BPE and the masks of nouns and verbs."""

import json

import numpy as np
import open_clip
import pytest
import torch

from stoa.data.text import encode_caption, foreign_script_share, tokenizer, used_token_ids, word_ending_at
from stoa.manifest import Caption


def spans(text: str, *words: str) -> tuple[tuple[int, int], ...]:
    return tuple((text.index(word), text.index(word) + len(word)) for word in words)


def marked(caption: Caption, kind: str, max_tokens: int = 32) -> list[str]:
    encoded = encode_caption(caption, max_tokens)
    mask = getattr(encoded, f"{kind}_mask_L")
    return [tokenizer().decode([int(t)]).strip() for t, hit in zip(encoded.tokens_L, mask, strict=True) if hit]


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
    items = json.loads((real_data / "clip_bpe" / "clip_bpe_vectors.json").read_text())["items"]
    checked = 0
    for item in items:
        if item["too_long"] or "<|" in item["text"]:  # open_clip spells its special tokens in another way
            continue
        encoded = encode_caption(Caption(item["text"]), 77)
        assert encoded.tokens_L[: item["n"]].tolist() == item["ids77"][: item["n"]], item["text"]
        checked += 1
    assert checked > 200


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
