"""Questions as clips to train on."""

from pathlib import Path

import numpy as np
import pytest
from factories import gray_frames, write_video

from stoa.data.boxes import ClipShape
from stoa.data.clips import FileClips
from stoa.data.dataset import ClipDataset, collate
from stoa.data.question_clips import QuestionClips, answer_classes
from stoa.data.text import decode_tokens, encode_caption, tokenizer, used_token_ids
from stoa.manifest import Caption, ClipRow, Prompt
from stoa.questions import QuestionRow

SHAPE = ClipShape(num_frames=2, side=32, max_tokens=12, max_boxes=2)


@pytest.fixture
def clips(tmp_path) -> FileClips:
    rows = []
    for name in "ab":
        write_video(tmp_path / f"{name}.mp4", gray_frames(4))
        rows.append(ClipRow(name, f"{name}.mp4", (Caption(f"a caption of {name}"),)))
    return FileClips(rows, tmp_path)


def ask(clip: str, question: str, answer: str) -> QuestionRow:
    return QuestionRow(f"{clip}-{question}", clip, question, answer, "what")


QUESTIONS = [ask("b", "what spins?", "star"), ask("a", "what grows?", "red heart")]


def test_a_question_takes_the_place_of_the_caption(clips):
    asked = QuestionClips(clips, QUESTIONS, ["star", "red heart"])
    assert (len(asked), asked.ids()) == (2, ["b", "a"])
    batch = collate([ClipDataset(asked, SHAPE, seed=0).load(i) for i in range(2)]).batch
    expected = [encode_caption(Caption(q.question), 12) for q in QUESTIONS[:2]]
    np.testing.assert_array_equal(batch.tokens_BL, np.stack([e.tokens_L for e in expected]))
    assert batch.target_B.tolist() == [0, 1]
    assert batch.prefix_B.tolist() == [0, 0]
    assert not batch.noun_mask_BL.any()


def test_an_answer_to_be_said_follows_its_question(clips):
    asked = QuestionClips(clips, QUESTIONS, None)
    batch = collate([ClipDataset(asked, SHAPE, seed=0).load(i) for i in range(2)]).batch
    assert decode_tokens(batch.tokens_BL[1].tolist()[: int(batch.text_mask_BL[1].sum())]) == "what grows ? red heart"
    assert batch.prefix_B.tolist() == [4, 4]
    assert batch.target_B.tolist() == [-1, -1]
    assert asked.used_token_ids() == used_token_ids([Caption(f"{q.question} {q.answer}") for q in QUESTIONS[:2]])


def test_questions_about_one_clip_share_its_frames(clips):
    asked = QuestionClips(clips, [ask("a", "x?", "y"), ask("a", "u?", "v"), ask("b", "u?", "v")], ["y", "v"])
    dataset = ClipDataset(asked, SHAPE, seed=0, cache_bytes=2**20)
    first, second, third = (dataset.load(i) for i in range(3))
    assert first.frames_TCHW is second.frames_TCHW
    assert first.frames_TCHW is not third.frames_TCHW
    assert (first.target, second.target) == (0, 1)
    assert first.clip_key == second.clip_key != third.clip_key


def test_an_answer_outside_of_the_classes_has_none(clips):
    asked = QuestionClips(clips, QUESTIONS, ["star"])
    assert [ClipDataset(asked, SHAPE, seed=0).load(i).target for i in range(2)] == [0, -1]


def test_the_fingerprint_tells_questions_answers_and_clips(clips):
    prints = {
        QuestionClips(clips, QUESTIONS, ["star"]).fingerprint,
        QuestionClips(clips, QUESTIONS, ["red heart"]).fingerprint,
        QuestionClips(clips, QUESTIONS[::-1], ["star"]).fingerprint,
        QuestionClips(FileClips(clips.rows[::-1], Path()), QUESTIONS, ["star"]).fingerprint,
    }
    assert len(prints) == 4
    assert QuestionClips(clips, QUESTIONS, ["star"]).fingerprint in prints


def test_captions_follow_the_questions(clips):
    """Every clip once, with a prefix of its own length for an answer and none for a caption."""
    silent = FileClips([*clips.rows, ClipRow("c", "a.mp4", ())], clips.root)
    asked = QuestionClips(silent, QUESTIONS, None, captions=True)
    assert (asked.ids(), asked.caption_counts()) == (["b", "a", "a", "b"], [1, 1, 1, 1])
    batch = collate([ClipDataset(asked, SHAPE, seed=0).load(i) for i in range(4)]).batch
    texts = [
        decode_tokens(row[: int(n)]) for row, n in zip(batch.tokens_BL.tolist(), batch.text_mask_BL.sum(1), strict=True)
    ]
    assert texts[1:3] == ["what grows ? red heart", "a caption of a"]
    assert batch.prefix_B.tolist() == [4, 4, 0, 0]
    assert set(asked.used_token_ids()) == {
        *QuestionClips(silent, QUESTIONS, None).used_token_ids(),
        *clips.used_token_ids(),
    }
    assert asked.fingerprint != QuestionClips(silent, QUESTIONS, None).fingerprint


def test_answers_are_counted():
    questions = [*QUESTIONS[::-1], ask("c", "who?", "star")]
    assert answer_classes(questions) == ["star", "red heart"]
    assert answer_classes(questions, 1) == ["star"]
    assert answer_classes([ask("a", "?", x) for x in "cbacb"]) == ["b", "c", "a"]


def test_a_long_question_is_cut_and_its_answer_is_not():
    encoded = encode_caption(Prompt("one two three four five six seven", answer="red heart"), 8)
    assert decode_tokens(encoded.tokens_L[1:7]) == "one two three four red heart"
    assert (encoded.prefix, encoded.tokens_L[7]) == (5, tokenizer().eot_token_id)
    assert encode_caption(Prompt("a b", answer="one two three four five six seven"), 5).prefix == 1
