"""Every task with a model on a GPU, simulated: the report is that of the CPU, and no operator meets tensors of both."""

import copy
import json
from dataclasses import replace

import pytest
import torch
from factories import tiny_config
from simulated_gpu import GpuTensor, simulated_gpu
from torch.nn.attention import SDPBackend, sdpa_kernel

from stoa.data.text import used_token_ids
from stoa.manifest import Caption, read_manifest
from stoa.models.config import ActionConfig, GraphConfig, ObjectConfig
from stoa.models.video_language import VideoLanguageModel
from stoa.questions import read_questions
from stoa.tasks.config import EvaluationConfig, GenerationConfig
from stoa.tasks.evaluation import Abilities, evaluate
from stoa.tasks.explain import clip_of_row, explain
from stoa.tasks.metrics.ranking import chance_metrics
from stoa.tasks.report import write_report, write_scores
from stoa.tasks.tagging import TaggedCaption
from stoa.tasks.trained import TrainedModel, resized, untrained
from stoa.viz.explain import sheet_png

ABILITIES = Abilities("one_pass", "end", None)
TASKS = {
    "retrieval": ("retrieval", ABILITIES, {"dual_softmax": True, "top_k": 3}),
    "captioning": ("captioning", ABILITIES, {"generation": GenerationConfig(beams=2)}),
    "captioning, two streams": ("captioning", ABILITIES._replace(plm_form="two_stream"), {}),
    "answers chosen": ("answering", ABILITIES._replace(answers=["star", "spins", "two"]), {}),
    "answers said": ("answering", ABILITIES, {}),
    "multiple choice": ("multiple_choice", ABILITIES, {}),
}


@pytest.fixture(scope="module")
def trained(shapes) -> TrainedModel:
    torch.manual_seed(0)
    texts = [c for row in read_manifest(shapes / "manifest.jsonl") for c in row.captions]
    texts += [Caption(q.question) for q in read_questions(shapes / "qa" / "test.jsonl")]
    objects = ObjectConfig(
        num_trajectories=4,
        max_boxes=4,
        residual=True,
        look=True,
        motion=True,
        relations=True,
        changes=True,
        word_head=True,
        grounding=True,
    )
    actions = ActionConfig(num_tokens=2, motion=True, word_head=True, grounding=True)
    config = tiny_config(
        objects=objects, actions=actions, graph=GraphConfig(layers=1), num_frames=3, max_tokens=16, num_answers=3
    )
    model = VideoLanguageModel(config, used_token_ids=used_token_ids(texts)).eval()
    return TrainedModel(model, torch.device("cpu"), 32, {"checkpoint": "none"})


def moved(trained: TrainedModel, device: torch.device) -> TrainedModel:
    return replace(trained, model=copy.deepcopy(trained.model).to(device), device=device)


@pytest.mark.parametrize(
    "name",
    [name if name in ("retrieval", "answers chosen") else pytest.param(name, marks=pytest.mark.slow) for name in TASKS],
)
def test_a_report_is_that_of_the_cpu(trained, shapes, tmp_path, name):
    task, abilities, values = TASKS[name]
    questions = tmp_path / "options.jsonl" if task == "multiple_choice" else shapes / "qa"
    if task == "multiple_choice":
        rows = [row for row in read_manifest(shapes / "manifest.jsonl") if row.split == "test"]
        options = [row.captions[0].text for row in rows[:4]]
        asked = [
            {"id": row.id, "clip": row.id, "question": "", "answer": text, "type": "mc", "options": options}
            for row, text in zip(rows, options, strict=False)
        ]
        questions.write_text("".join(json.dumps(question) + "\n" for question in asked))
    config = EvaluationConfig(
        manifest=str(shapes / "manifest.jsonl"),
        questions=str(questions),
        hard=str(shapes / "hard"),
        decoder="pyav",
        batch_size=5,
        baseline=False,
        **values,
    )
    with sdpa_kernel(SDPBackend.MATH):  # the one that is made of plain operators
        on_cpu = evaluate(task, trained, abilities, config, meteor=False)
    with simulated_gpu() as gpu, sdpa_kernel(SDPBackend.MATH):
        model = moved(trained, gpu)
        assert all(isinstance(p, GpuTensor) for p in model.model.parameters())
        on_gpu = evaluate(task, model, abilities, config, meteor=False)
        write_report(on_gpu.report, tmp_path / "gpu.json")
        if on_gpu.scores is not None:
            write_scores(*on_gpu.scores, tmp_path / "gpu.npz")
    write_report(on_cpu.report, tmp_path / "cpu.json")
    read = [(tmp_path / f"{name}.json").read_text().replace("cuda:0", "cpu") for name in ("cpu", "gpu")]
    assert read[1] == read[0]
    assert on_gpu.predictions == on_cpu.predictions
    assert on_gpu.headline == on_cpu.headline


def test_an_explanation_is_that_of_the_cpu(trained, shapes):
    row = next(row for row in read_manifest(shapes / "manifest.jsonl") if row.split == "test")
    given = ABILITIES, clip_of_row(row, shapes), TaggedCaption(row.captions[0], "as given")
    with sdpa_kernel(SDPBackend.MATH):
        on_cpu = explain(trained, *given)
        with simulated_gpu() as gpu:
            on_gpu = explain(moved(trained, gpu), *given)
    assert sheet_png(on_gpu) == sheet_png(on_cpu)


def test_models_made_of_it_are_there_too(trained):
    with simulated_gpu() as gpu:
        model = moved(trained, gpu)
        for other in (untrained(model), resized(model, num_frames=5, max_tokens=20)):
            assert all(isinstance(p, GpuTensor) for p in other.model.parameters())


def test_tensors_of_both_are_refused():
    relevant_QG = torch.eye(3, dtype=torch.bool)
    with simulated_gpu() as gpu:
        assert chance_metrics(relevant_QG.to(gpu)) == chance_metrics(relevant_QG)
        with pytest.raises(RuntimeError, match="on cuda:0 and on cpu"):
            torch.zeros(3, 3).masked_fill(relevant_QG.to(gpu), 1.0)
        with pytest.raises(TypeError, match="numpy"):
            relevant_QG.to(gpu).numpy()
