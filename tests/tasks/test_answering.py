"""Answers to questions about videos, and their accuracy."""

import json
from dataclasses import replace

import pytest
import torch
from factories import tiny_config

from stoa.data.clips import FileClips
from stoa.data.dataset import ClipDataset
from stoa.data.sampler import SampleKey
from stoa.data.text import decode_tokens, encode_caption, tokenizer, used_token_ids
from stoa.manifest import Caption, Prompt, read_manifest
from stoa.models.video_language import VideoLanguageModel
from stoa.questions import QuestionRow, questions_of_split, read_questions
from stoa.tasks.answering import choose_answers, pick_options, say_answers
from stoa.tasks.config import EvaluationConfig, GenerationConfig
from stoa.tasks.evaluation import Abilities, evaluate, open_split, score_file
from stoa.tasks.gallery import encode_galleries
from stoa.tasks.metrics.answers import answer_accuracy
from stoa.tasks.report import format_report, read_predictions, write_predictions, write_report
from stoa.tasks.retrieval import itc_scores, match_scores
from stoa.tasks.trained import TrainedModel
from stoa.tasks.videos import VideoReader

ANSWERS = ["star", "spins", "two"]


@pytest.fixture(scope="module")
def trained(shapes) -> TrainedModel:
    torch.manual_seed(0)
    texts = [c for row in read_manifest(shapes / "manifest.jsonl") for c in row.captions]
    texts += [Caption(q.question) for q in read_questions(shapes / "qa" / "test.jsonl")]
    config = tiny_config(num_frames=3, max_tokens=16, num_answers=3)
    model = VideoLanguageModel(config, used_token_ids=used_token_ids(texts)).eval()
    return TrainedModel(model, torch.device("cpu"), 32, {"checkpoint": "none"})


@pytest.fixture(scope="module")
def clips(shapes):
    return open_split(str(shapes / "manifest.jsonl"), "test")


@pytest.fixture(scope="module")
def questions(shapes, clips):
    return questions_of_split(shapes / "qa", "test", clips.ids(), every_clip=pytest.fail)[0]


def videos(trained, clips, batch_size=5):
    return VideoReader(clips, trained.model.config, trained.side, batch_size=batch_size)


def test_an_answer_depends_on_its_question_and_video_alone(trained, clips, questions):
    whole = choose_answers(trained, videos(trained, clips), questions, ANSWERS)
    assert whole.keys() == {q.id for q in questions} and set(whole.values()) <= set(ANSWERS)
    for question in questions[:3]:
        assert choose_answers(trained, videos(trained, clips, 1), [question], ANSWERS) == {
            question.id: whole[question.id]
        }


@pytest.mark.parametrize("beams", [1, 3])
def test_answers_may_be_said(trained, clips, questions, beams):
    config = GenerationConfig(beams=beams, max_new_tokens=4)
    whole = say_answers(trained, videos(trained, clips), questions, config, "one_pass")
    assert whole.keys() == {q.id for q in questions}
    for question in questions[:3]:
        alone = say_answers(trained, videos(trained, clips, 1), [question], config, "one_pass")
        assert alone == {question.id: whole[question.id]}


def test_a_question_that_fills_the_text_still_gets_an_answer(trained, clips):
    long = QuestionRow("1", clips.row(0).id, "what " * 40, "star", "what")
    assert int(encode_caption(Prompt(long.question), 15).text_mask_L.sum()) == 15
    head = trained.model.lm_head
    end = head.targets(torch.tensor([tokenizer().eot_token_id]))
    before = head.bias.data.clone()
    head.bias.data[end] = -1e4  # else a model may say nothing where there is room
    said = say_answers(trained, videos(trained, clips), [long], GenerationConfig(beams=1), "one_pass")
    head.bias.data.copy_(before)
    assert set(said) == {"1"} and said["1"]


def test_options_are_compared_as_captions(trained, clips):
    captions = [clips.row(i).captions[0].text for i in range(4)]
    asked = [QuestionRow(str(i), clips.row(i).id, "", captions[i], "mc", tuple(captions)) for i in range(4)]
    picked = pick_options(trained, videos(trained, clips), asked)
    (gallery,) = encode_galleries([trained], videos(trained, clips))
    pairs = torch.meshgrid(torch.arange(4), torch.arange(4), indexing="ij")
    by_hand = {"vtm": match_scores(trained, gallery, *pairs), "itc": itc_scores(trained, gallery)[:4, :4]}
    for method, scores in by_hand.items():
        assert picked[method] == {str(i): captions[int(scores[:, i].argmax())] for i in range(4)}
    with pytest.raises(ValueError, match="question '7' has no options"):
        pick_options(trained, videos(trained, clips), [QuestionRow("7", "a", "who?", "x", "who")])


def ask(id: str, answer: str, kind: str = "what") -> QuestionRow:
    return QuestionRow(id, "a", "?", answer, kind)


def test_accuracy_counts_exact_answers_by_type():
    asked = [ask("1", "star"), ask("2", "two", "count"), ask("3", "Red  heart"), ask("4", "one", "count")]
    found = answer_accuracy({"1": "Star ", "2": "three", "3": "red heart", "4": "one"}, asked)
    assert (found.accuracy, found.num_questions) == (75.0, 4)
    assert found.by_type == {"what": (100.0, 2), "count": (50.0, 2)}


@pytest.mark.parametrize("answer", ["10", "t-shirt", "men's", "ice cream"])
def test_an_answer_said_in_tokens_may_be_right(answer):
    said = decode_tokens(tokenizer().encode(answer))
    assert answer_accuracy({"1": said}, [ask("1", answer)]).accuracy == 100


def test_answers_and_questions_must_fit():
    asked = [ask("1", "star"), ask("2", "two")]
    with pytest.raises(ValueError, match="1 questions have no prediction: 2"):
        answer_accuracy({"1": "star"}, asked)
    with pytest.raises(ValueError, match="1 questions have a prediction and are not asked: 9"):
        answer_accuracy({"1": "star", "2": "two", "9": "x"}, asked)
    with pytest.raises(ValueError, match="no question to score"):
        answer_accuracy({}, [])


def config_of(shapes, **changes) -> EvaluationConfig:
    values = {"manifest": str(shapes / "manifest.jsonl"), "questions": str(shapes / "qa"), **changes}
    return EvaluationConfig(**values)


def test_a_report_and_its_predictions(trained, shapes, questions, tmp_path):
    result = evaluate("answering", trained, Abilities("one_pass", "end", ANSWERS), config_of(shapes))
    accuracy = result.report["answering"]["chosen"]
    assert accuracy == answer_accuracy(result.predictions, questions)
    assert result.headline == accuracy.accuracy
    card = result.report["protocol"]
    assert card["questions"] == f"{len(questions)} of {len(questions)} with a readable video"
    assert card["answers"] == "chosen among 3 of training; any other is wrong"
    assert "chosen, accuracy (%)" in format_report(result.report)
    write_report(result.report, tmp_path / "r.json")
    written = json.loads((tmp_path / "r.json").read_text())["answering"]["chosen"]
    assert written["accuracy"] == accuracy.accuracy and written["by_type"].keys() == accuracy.by_type.keys()
    write_predictions(result.predictions, tmp_path / "p.jsonl")
    assert read_predictions(tmp_path / "p.jsonl") == result.predictions
    again = score_file("answering", read_predictions(tmp_path / "p.jsonl"), config_of(shapes))
    assert again["answering"]["given"] == accuracy
    assert again["protocol"]["questions sha256"] == card["questions sha256"]
    with pytest.raises(ValueError, match="--task is retrieval; a file of predictions is scored for one of the other"):
        score_file("retrieval", result.predictions, config_of(shapes))


def test_types_may_be_chosen(trained, shapes, questions):
    abilities = Abilities("one_pass", "end", None)
    result = evaluate("answering", trained, abilities, config_of(shapes, question_types=["count"], view="blind"))
    assert set(result.report["answering"]["said"].by_type) == {"count"}
    assert result.report["protocol"]["view"] == "blind"
    assert result.report["protocol"]["question types"] == "count"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"questions": None}, "--questions is missing"),
        ({"question_types": ["smell"]}, r"none has a type of \['smell'\] \(types found: \["),
        ({"manifest": "MANIFEST", "split": "val"}, "hold nothing to ask of split 'val'|do not exist"),
    ],
)
def test_what_cannot_be_asked_is_told(trained, shapes, changes, message):
    changes = {k: str(shapes / "manifest.jsonl") if v == "MANIFEST" else v for k, v in changes.items()}
    if changes.get("split"):
        changes["questions"] = str(shapes / "qa" / "test.jsonl")
    with pytest.raises(ValueError, match=message):
        evaluate("answering", trained, Abilities("one_pass", "end", ANSWERS), config_of(shapes, **changes))


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", "row 1: JSON over several lines"),
        ('{"id": 1}', "row 1: 'prediction' is missing; expected an object with 'id' and 'prediction'"),
        ('{"id": "a", "prediction": 3}', "'prediction' is 3; expected a text"),
        ('{"id": "a", "prediction": "x"}\n{"id": "a", "prediction": "y"}', "row 2: id 'a' stands there twice"),
    ],
)
def test_bad_prediction_files_are_told(tmp_path, line, message):
    (tmp_path / "p.jsonl").write_text(line)
    with pytest.raises(ValueError, match=message):
        read_predictions(tmp_path / "p.jsonl")
    with pytest.raises(ValueError, match="does not exist"):
        read_predictions(tmp_path / "q.jsonl")


def test_odd_characters_survive_the_file(tmp_path):
    said = {"a": "x\u2028y\nz", "b\u2028c": ""}
    write_predictions(said, tmp_path / "p.jsonl")
    assert read_predictions(tmp_path / "p.jsonl") == said


def test_clips_that_nobody_has_described_can_be_asked_about(trained, clips, questions):
    """As the stores of MSRVTT-QA and MSVD-QA are."""
    bare = FileClips([replace(row, captions=()) for row in clips.rows], clips.root)
    expected = choose_answers(trained, videos(trained, clips), questions, ANSWERS)
    assert choose_answers(trained, videos(trained, bare), questions, ANSWERS) == expected
    with pytest.raises(ValueError, match="no clip has a caption"):
        encode_galleries([trained], videos(trained, bare))
    dataset = ClipDataset(bare, videos(trained, bare)._samples.dataset.shape, seed=0)
    with pytest.raises(ValueError, match="could not be read, the last .*it has no caption to train on"):
        dataset[SampleKey(0, 0, 0)]
