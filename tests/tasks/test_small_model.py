"""The model that comes with the package: of use at once, and made by the recipes that its card names."""

import json

import pytest
import torch
from data_sets import built_once
from launch import Program, finish

import stoa
from stoa.manifest import read_manifest
from stoa.questions import read_questions
from stoa.shipped import SMALL
from stoa.synthetic import SynthConfig

FAMILIES = ["horizontal", "vertical", "size", "light"]


@pytest.fixture(scope="module")
def model():
    return stoa.load("small", device="cpu")


@pytest.fixture(scope="module")
def shapes(tmp_path_factory):
    """Clips of another seed than it was trained on, and of combinations that its training captions do not have."""
    config = SynthConfig(num_train=0, num_val=0, num_test=24, num_galleries=0, paraphrases=1, families=FAMILIES, seed=5)
    return built_once(tmp_path_factory, "for_the_small_model", config)


def test_it_is_a_few_megabytes():
    assert sum(path.stat().st_size for path in SMALL.iterdir()) < 9e6
    assert {"README.md", "config.json", "model.safetensors", "made.json"} == {path.name for path in SMALL.iterdir()}


def test_it_finds_clips_it_has_never_seen(model, shapes):
    rows = read_manifest(shapes / "manifest.jsonl", split="test")
    clips = model.encode([stoa.Clip(video=shapes / row.video, detections=shapes / row.detections) for row in rows])
    first = [model.search(row.captions[0].text, clips, top_k=10)[0].number == n for n, row in enumerate(rows)]
    assert sum(first) >= 16  # of 24; one is chance
    matches = model.match(clips, [row.captions[0].text for row in rows])
    others = model.match(clips, [row.captions[0].text for row in (*rows[1:], rows[0])])
    assert matches.median() > 0.5 > others.median()


def test_it_says_what_it_sees(model, shapes):
    """Words of a clip's own caption, but for what stands in all, beside those of the next clip's."""
    rows = read_manifest(shapes / "manifest.jsonl", split="test")
    said = model.caption([stoa.Clip(video=shapes / row.video, detections=shapes / row.detections) for row in rows])
    words = [set(row.captions[0].text.replace(",", "").split()) - {"a", "an", "and", "while", "as"} for row in rows]
    own, others = (
        sum(len(right & set(one.split())) / len(right) for right, one in zip(truth, said, strict=True)) / len(rows)
        for truth in (words, [*words[1:], words[0]])
    )
    assert own > others + 0.15


def test_it_answers_in_its_own_words(model, tmp_path_factory):
    """Which of four ways something moves, and what of seven an object does."""
    assert model.knows_questions
    config = SynthConfig(
        num_train=0, num_val=0, num_test=100, num_galleries=0, paraphrases=1, families=FAMILIES, seed=6
    )
    shapes = built_once(tmp_path_factory, "asked_of_the_small_model", config)
    clips = {
        row.id: stoa.Clip(video=shapes / row.video, detections=shapes / row.detections)
        for row in read_manifest(shapes / "manifest.jsonl", split="test")
    }
    asked = list(read_questions(shapes / "qa/test.jsonl"))
    for kind, by_chance in {"direction": 1 / 4, "action": 1 / 7}.items():
        of_kind = [question for question in asked if question.type == kind]
        right = [model.answer(clips[one.clip], one.question) == one.answer for one in of_kind]
        assert sum(right) > 1.5 * by_chance * len(right) and len(right) > 10


def test_the_card_has_the_scores_of_its_evaluation():
    made, card = json.loads((SMALL / "made.json").read_text()), (SMALL / "README.md").read_text()
    for name, score in made["scores"].items():
        assert f"| {name} | {score:.1f} |" in card
    assert made["weights_sha256"] == json.loads((SMALL / "config.json").read_text())["weights_sha256"]


@pytest.mark.slow
@pytest.mark.dist
def test_its_recipes_take_the_same_first_steps(tmp_path_factory, tmp_path, repo_root):
    """On the first clips of its data, in fp32: what made it still trains as it did."""
    config = SynthConfig(
        num_train=256, num_val=16, num_test=0, num_galleries=0, paraphrases=1, siblings=2, families=FAMILIES
    )
    clips = built_once(tmp_path_factory, "first_clips_of_the_small_model", config)
    (tmp_path / "ds.json").write_text(json.dumps({"train_micro_batch_size_per_gpu": 32, "gradient_clipping": 1.0}))
    recorded = json.loads((SMALL / "made.json").read_text())["first_steps"]
    pretrained = tmp_path / "recipes/study/stoa_stgt.yaml"
    taught = {"--run": pretrained, "--questions": clips / "qa", "--epochs": "null", "--validation.generation.beams": 1}
    grounding = {"--model.objects.grounding": "false", "--model.actions.grounding": "false"}
    as_it_was_made = {**grounding, "--objectives.align_loss": "nce"}
    found = {}
    for recipe in recorded:
        command = ["-m", "stoa.cli", "finetune"] if "/finetune/" in recipe else ["train.py"]
        options = {
            "--recipe": recipe,
            "--deepspeed_config": tmp_path / "ds.json",
            "--data.manifest": clips / "manifest.jsonl",
            "--training.output_dir": tmp_path / recipe,
            "--training.frozen_outputs": "null",
            "--training.max_steps": 3,
            "--training.log_every": 1,
            "--training.save_every": 3,
            **(taught if command != ["train.py"] else {}),
            **(as_it_was_made if recipe.endswith("stoa_stgt.yaml") else {}),
        }
        finish(Program([*command, *(str(word) for pair in options.items() for word in pair)], tmp_path))
        records = [json.loads(line) for line in (tmp_path / recipe / "metrics.jsonl").read_text().splitlines()]
        found[recipe] = [record["loss"] for record in records if "loss" in record]
    for recipe, losses in recorded.items():
        torch.testing.assert_close(torch.tensor(found[recipe]), torch.tensor(losses), rtol=2e-3, atol=0, msg=str(found))
