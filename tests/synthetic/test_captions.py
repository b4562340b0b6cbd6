from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stoa.synthetic.captions import PHRASES, describe, sample_wording
from stoa.synthetic.questions import ask, balance
from stoa.synthetic.scene import COLOURS, SHAPES, Pool, count_stories, sample_story

_seeds = st.integers(0, 2**32 - 1)
_VERBS = {verb for phrases in PHRASES.values() for verb, _ in phrases}


@given(seed=_seeds, pool=st.sampled_from(["seen", "held_out", "any"]))
@settings(max_examples=200)
def test_captions_name_what_happens_and_spans_point_at_it(seed: int, pool: Pool) -> None:
    rng = np.random.default_rng(seed)
    story = sample_story(rng, pool)
    description = describe(story, sample_wording(rng))
    text = description.caption.text
    assert len(text.split()) <= 26
    nouns = [text[start:end] for start, end in description.caption.nouns]
    assert nouns == [story.roles[index].shape for index in description.noun_objects]
    verbs = [text[start:end] for start, end in description.caption.verbs]
    for verb, index in zip(verbs, description.verb_objects, strict=True):
        assert verb in {first for first, _ in PHRASES[story.roles[index].action]}
    words = text.replace(",", "").split()
    assert [word for word in words if word in SHAPES] == nouns
    assert [word for word in words if word in _VERBS] == verbs
    assert "a orange" not in text and "an red" not in text
    captioned = {index for index, role in enumerate(story.roles) if role.captioned}
    assert set(description.noun_objects) == captioned and len(nouns) == len(captioned)
    for index in captioned:
        assert story.roles[index].start_colour in words


@given(seed=_seeds, pool=st.sampled_from(["seen", "held_out", "any"]))
@settings(max_examples=200)
def test_stories_keep_the_rules(seed: int, pool: Pool) -> None:
    story = sample_story(np.random.default_rng(seed), pool)
    captioned = [role for role in story.roles if role.captioned]
    assert 3 <= len(story.roles) <= 4 and 2 <= len(captioned) < len(story.roles)
    assert len({role.action for role in captioned}) == len(captioned)
    colours = [colour for role in story.roles for colour in role.colours]
    assert len(set(colours)) == len(colours)
    assert len({role.shape for role in story.roles}) == len(story.roles) - story.shared_label
    if pool != "any":
        assert {role.held_out for role in captioned} == {pool == "held_out"}
    assert story.reversed().reversed() == story


def test_the_share_of_stories_with_a_repeated_label() -> None:
    stories = [sample_story(np.random.default_rng(seed), "seen") for seed in range(1500)]
    assert 0.16 < np.mean([story.shared_label for story in stories]) < 0.24
    assert 0.18 < np.mean([any(role.partner is not None for role in story.roles) for story in stories]) < 0.32


def test_captions_of_a_split_differ_in_meaning(
    data_set: Path, read_jsonl: Callable[[Path], list[dict[str, Any]]]
) -> None:
    rows = read_jsonl(data_set / "manifest.jsonl")
    for split in ("train", "val", "test"):
        texts = [row["captions"][0]["text"] for row in rows if row["split"] == split]
        assert texts and len(set(texts)) == len(texts)


def test_held_out_combinations_are_apart_and_every_attribute_is_seen(
    data_set: Path, read_jsonl: Callable[[Path], list[dict[str, Any]]]
) -> None:
    seen: dict[str, set[tuple[str, ...]]] = {}
    for split in ("train", "val", "test"):
        seen[split] = {
            (thing["shape"], *sorted((thing["colour"], thing["end_colour"])), thing["action"])
            for row in read_jsonl(data_set / "truth" / f"{split}.jsonl")
            for thing in row["objects"]
            if thing["captioned"]
        }
    assert not seen["train"] & (seen["val"] | seen["test"])
    for part in (0, 1, -1):
        test, train = ({combination[part] for combination in seen[split]} for split in ("test", "train"))
        assert test <= train
    assert {combination[0] for combination in seen["train"]} == set(SHAPES)
    assert {combination[1] for combination in seen["train"]} == set(COLOURS)


def test_there_are_many_stories_of_each_pool() -> None:
    assert count_stories("any") > count_stories("seen") > count_stories("held_out") > 10_000


def test_questions_are_right_and_balanced() -> None:
    stories = {f"clip_{seed}": sample_story(np.random.default_rng(seed), "seen") for seed in range(800)}
    questions = [question for clip, story in stories.items() for question in ask(clip, story)]
    for question in questions:
        roles = stories[question.clip].roles
        assert " " not in question.answer
        if question.kind == "colour":
            shape = question.text.split()[-1].rstrip("?")
            assert [role.colour for role in roles if role.shape == shape] == [question.answer]
        if question.kind == "shape":
            colour = question.text.split()[3]
            assert [role.shape for role in roles if colour in role.colours] == [question.answer]
    kept = balance(np.random.default_rng(0), questions)
    assert len(set(Counter(question.kind for question in kept).values())) == 1
    assert {question.kind for question in kept} == {"action", "colour", "count", "direction", "role", "shape"}
    for template in {(question.kind, question.template) for question in kept}:
        answers = Counter(q.answer for q in kept if (q.kind, q.template) == template)
        assert max(answers.values()) <= 1.8 * np.mean(list(answers.values()))


def test_balancing_nothing_gives_nothing() -> None:
    assert balance(np.random.default_rng(0), []) == []


@pytest.mark.parametrize("action", sorted(PHRASES))
def test_paraphrases_differ(action: str) -> None:
    assert len(set(PHRASES[action])) == len(PHRASES[action]) >= 2
