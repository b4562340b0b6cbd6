"""Every recipe trains: three optimiser steps of its model and objectives on a tiny backbone."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from factories import END, START, USED, random_batch
from jsonargparse import ArgumentParser

from stoa.cli import finetune
from stoa.config import parse_run
from stoa.models.video_language import VideoLanguageModel
from stoa.objectives.total import TrainingObjective
from stoa.planning.imagined import ImaginedRun
from stoa.tasks.ablation.plan import read_plan
from stoa.training.optim import build_optimizer, set_learning_rates

RECIPES = Path(__file__).parent.parent.parent / "recipes"
METHODS = (
    *("stoa", "stoa_motion", "base", "obj", "obj_ota", "obj_act_ota", "released", "stgt", "stgt_released", "stoa_stgt"),
)
ALL = sorted(
    path.relative_to(RECIPES).as_posix()
    for path in RECIPES.rglob("*.yaml")
    if not {"finetune", "ablation"} & {*path.parts} and not path.name.startswith("plan")
)
TINY = (
    *("--model.backbone.name", "stoa-tiny", "--model.fusion.layers", "2", "--model.num_frames", "3"),
    *("--model.max_tokens", "12"),
)


def parse(name: str, *arguments: str):
    recipe = ("--recipe", str(RECIPES / name))
    return parse_run([*recipe, "--deepspeed_config", "x.json", *arguments])


def test_every_method_has_a_recipe_and_a_small_twin():
    assert set(ALL) >= {f"{folder}{method}.yaml" for method in METHODS for folder in ("", "small/")}


@pytest.mark.parametrize("method", METHODS)
def test_a_twin_differs_in_size_alone(method):
    """The same switches: what is on and off, and how it is computed."""
    big, small = parse(f"{method}.yaml"), parse(f"small/{method}.yaml")
    shorter = replace(small.objectives.csal, from_step=big.objectives.csal.from_step)
    ramp = big.objectives.vtm_ramp_steps
    assert ramp / big.training.max_steps == small.objectives.vtm_ramp_steps / small.training.max_steps
    assert big.objectives == replace(small.objectives, csal=shorter, vtm_ramp_steps=ramp)
    assert big.model.match_by == small.model.match_by
    assert big.model.graph == small.model.graph
    assert big.model.group_sizes.keys() == small.model.group_sizes.keys()
    assert big.model.joint_last_blocks == small.model.joint_last_blocks
    for part in ("objects", "actions"):
        a, b = getattr(big.model, part), getattr(small.model, part)
        switches = (
            "layers",
            "tap_from_top",
            "detach_tap",
            "residual",
            "look",
            "motion",
            "relations",
            "changes",
            "word_head",
            "grounding",
        )
        assert [getattr(a, name, None) for name in switches] == [getattr(b, name, None) for name in switches]


GRAPH = {"model.graph.layers", "model.graph.contrast", "objectives.csal.share", "objectives.csal.from_step"}
CONTROLS = {
    ("stgt", "base"): GRAPH,
    ("stgt", "stgt_paper"): {"model.graph.contrast"},
    ("stgt", "stgt_full"): {"model.graph.reach", "model.graph.edge_mode", "model.graph.threshold"},
    ("stgt", "stgt_frame"): {"model.graph.reach"},
    ("stgt", "stgt_onehot"): {"objectives.csal.share", "objectives.csal.from_step"},
    ("stgt", "stgt_unpooled"): {"model.graph.pool"},
    ("stoa", "stoa_stgt"): GRAPH,
    ("stoa", "obj_act_ota"): {"objectives.asp", "model.actions.word_head", "model.actions.grounding"},
    ("stoa", "stoa_paper"): {
        *(f"model.objects.{name}" for name in ("look", "motion", "relations", "changes", "word_head", "grounding")),
        *(f"model.actions.{name}" for name in ("motion", "word_head", "grounding")),
        "objectives.align_loss",
    },
}


@pytest.mark.parametrize(("row", "control"), CONTROLS, ids="-".join)
def test_a_row_of_the_study_differs_in_what_it_is_named_after(row, control):
    a, b = (flat(parse(f"study/{name}.yaml").to_dict()) for name in (row, control))
    different = {key for key in a.keys() | b.keys() if a.get(key) != b.get(key)}
    assert different - {"training.output_dir"} == CONTROLS[row, control]


def flat(values: dict, prefix: str = "") -> dict:
    out = {}
    for key, value in values.items():
        out |= flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
    return out


SCHEDULE = ("training.max_steps", "training.optim", "objectives.vtc_smoothing", "model.num_frames", "model.max_tokens")


def test_rows_of_the_ablation_are_trained_alike():
    """Of STGT beside STOA-VLP: the schedule is no part of what is compared."""
    plan = read_plan(RECIPES / "ablation" / "stgt.yaml")
    trained = [cell.commands[0].split()[1:] for cell in plan.cells if cell.commands[0].startswith("train.py")]
    assert len(trained) == 24
    found = [flat(parse_run(words).to_dict()) for words in trained]
    for key in (key for key in found[0] if key.startswith(SCHEDULE)):
        assert len({repr(run[key]) for run in found}) == 1, key


def test_the_default_is_the_paper():
    config = parse("stoa.yaml")
    model, objectives = config.model, config.objectives
    assert (model.num_frames, model.max_tokens) == (12, 32)
    assert (model.objects.num_trajectories, model.objects.max_boxes, model.actions.num_tokens) == (20, 10, 4)
    assert {name for name, weight in objectives.weights.items() if weight != 1} == {"answer"}
    assert objectives.answer == 0
    assert (model.objects.motion, model.objects.word_head, config.training.optim.objects_lr) == (False, False, None)
    assert (objectives.plm_form, objectives.align_loss, objectives.null_token) == ("one_pass", "mse", "end")


@pytest.mark.parametrize("name", ALL)
def test_it_can_be_imagined(name):
    """Without memory: nothing of its model is made anywhere but where it is asked for."""
    config = parse(name, *TINY)
    training = replace(config.training, optim=replace(config.training.optim, frozen_vision_blocks=None))
    run = ImaginedRun(config.model, config.objectives, training, precision="fp32", used_token_ids=USED)
    assert {x.device.type for x in (*run.model.parameters(), *run.model.buffers())} == {"meta"}


@pytest.mark.parametrize("name", ALL)
def test_three_steps(name):
    config = parse(name, *TINY)
    torch.manual_seed(0)
    used = [*range(320, 360), START, END] if config.model.lm_vocab == "used" else None
    objective = TrainingObjective(VideoLanguageModel(config.model, used_token_ids=used), config.objectives, seed=0)
    optimizer = build_optimizer(objective, config.training.optim)
    set_learning_rates(optimizer, 1.0)
    before = {name: p.detach().clone() for name, p in objective.named_parameters()}
    for step in range(3):
        batch = random_batch(4, seed=step, frames=3, max_boxes=config.model.num_boxes)
        loss, scalars = objective(batch, step)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        assert torch.isfinite(loss)
    assert {k for k, weight in config.objectives.weights.items() if weight} <= scalars.keys()
    if "graph" in config.model.group_sizes:
        assert 0 < scalars["graph_density"] <= 1
    moved = {name for name, p in objective.named_parameters() if not torch.equal(p, before[name])}
    for part in ("objects", "actions", "graph"):
        assert any(f"model.{part}." in name for name in moved) == (part in config.model.group_sizes)


FINETUNE = sorted(path for path in RECIPES.rglob("*.yaml") if "finetune" in path.parts)


@pytest.mark.parametrize("recipe", FINETUNE, ids=lambda path: path.relative_to(RECIPES).as_posix())
def test_every_fine_tuning_recipe_is_valid(recipe):
    parser = ArgumentParser(exit_on_error=False)
    finetune.add_arguments(parser)
    values = parser.instantiate(parser.parse_args(["--recipe", str(recipe), "--run", "x", "--deepspeed_config", "x"]))
    weights = values.objectives.weights
    expected = {
        "retrieval": {"vtc", "vtm"},
        "multiple_choice": {"vtc", "vtm"},
        "captioning": {"plm"},
        "answering": {"plm"} if recipe.stem.endswith("_said") or values.keep_captions else {"answer"},
    }
    assert {name for name, weight in weights.items() if weight} == expected[values.task]
    assert (values.objectives.plm_prefix == "start") == (values.task == "captioning")
    finetune.config_of(values)  # what one value has to do with another
