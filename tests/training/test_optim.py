"""Parameter groups and the schedule."""

from dataclasses import replace

import pytest
from factories import random_batch, tiny_model

from stoa.models.config import ObjectConfig
from stoa.objectives.config import ObjectivesConfig
from stoa.objectives.total import TrainingObjective
from stoa.training.config import OptimConfig
from stoa.training.optim import build_optimizer, lr_factor, parameter_groups, set_learning_rates

CONFIG = OptimConfig(clip_lr=1e-5, new_lr=1e-3, weight_decay=0.1)


def group_of() -> dict[str, dict]:
    """Group of every parameter by name."""
    objective = TrainingObjective(tiny_model(), ObjectivesConfig(), seed=0)
    groups = parameter_groups(objective, CONFIG)
    where = {id(p): group for group in groups for p in group["params"]}
    return {name: where[id(p)] for name, p in objective.named_parameters()}


def test_every_parameter_is_in_one_group():
    objective = TrainingObjective(tiny_model(), ObjectivesConfig(), seed=0)
    listed = [id(p) for group in parameter_groups(objective, CONFIG) for p in group["params"]]
    assert sorted(listed) == sorted(id(p) for p in objective.parameters())


@pytest.mark.parametrize(
    ("name", "peak", "decayed"),
    [
        ("model.clip.visual.transformer.resblocks.0.attn.in_proj_weight", 1e-5, True),
        ("model.clip.visual.conv1.weight", 1e-5, True),
        ("model.clip.visual.proj", 1e-5, True),
        ("model.clip.text_projection", 1e-5, True),
        ("model.clip.visual.positional_embedding", 1e-5, False),
        ("model.clip.visual.class_embedding", 1e-5, False),
        ("model.clip.token_embedding.weight", 1e-5, False),
        ("model.clip.logit_scale", 1e-5, False),
        ("model.clip.ln_final.weight", 1e-5, False),
        ("model.fusion.blocks.0.mlp.c_fc.weight", 1e-3, True),
        ("model.fusion.blocks.0.mlp.c_fc.bias", 1e-3, False),
        ("model.fusion.text_positions", 1e-3, False),
        ("model.fusion.type_embeddings", 1e-3, False),
        ("model.mask_token", 1e-3, False),
        ("model.match_head.weight", 1e-3, True),
    ],
)
def test_rates_and_decay(name, peak, decayed):
    group = group_of()[name]
    assert (group["peak_lr"], group["weight_decay"]) == (peak, 0.1 if decayed else 0.0)


@pytest.mark.parametrize(("objects_lr", "num_groups"), [(None, 4), (1e-4, 6)])
def test_encoders_of_objects_may_have_a_rate_of_their_own(objects_lr, num_groups):
    model = tiny_model(objects=ObjectConfig(num_trajectories=4, max_boxes=3, motion=True))
    objective = TrainingObjective(model, ObjectivesConfig(), seed=0)
    groups = parameter_groups(objective, replace(CONFIG, objects_lr=objects_lr))
    assert len(groups) == num_groups
    rate_of = {id(p): group["peak_lr"] for group in groups for p in group["params"]}
    for name, parameter in objective.named_parameters():
        part = name.split(".")[1]
        own = CONFIG.new_lr if objects_lr is None else objects_lr
        of_objects = dict.fromkeys(("objects", "trajectories", "motion", "actions"), own)
        expected = {"clip": 1e-5, **of_objects}.get(part, CONFIG.new_lr)
        assert rate_of[id(parameter)] == expected, name


@pytest.mark.parametrize("name", ["clip_lr", "new_lr", "objects_lr", "weight_decay", "warmup_steps"])
@pytest.mark.parametrize("value", [-1, float("nan")])
def test_negative_settings_are_named(name, value):
    with pytest.raises(ValueError, match=f"training.optim.{name} is {value}; expected 0 or more"):
        OptimConfig(**{name: value})


def test_the_schedule():
    factors = [lr_factor(step, 10, 110) for step in range(110)]
    assert factors[0] == pytest.approx(0.1)
    assert factors[9] == factors[10] == 1.0
    assert factors[60] == pytest.approx(0.5)
    assert 0 < factors[-1] < 0.001
    assert all(a >= b for a, b in zip(factors[10:], factors[11:], strict=False))
    assert lr_factor(0, 0, 1) == 1.0


def test_rates_are_set_relative_to_the_peak():
    optimizer = build_optimizer(TrainingObjective(tiny_model(), ObjectivesConfig(), seed=0), CONFIG)
    set_learning_rates(optimizer, 0.5)
    assert {group["lr"] for group in optimizer.param_groups} == {5e-6, 5e-4}


@pytest.mark.parametrize("blocks", [1, 2])
def test_frozen_blocks_have_no_gradient_and_no_group(blocks):
    model = tiny_model()
    visual = model.clip.visual
    assert len(visual.blocks) == 2
    visual.freeze(blocks)
    frozen = {name for name, p in visual.named_parameters() if not p.requires_grad}
    assert {"conv1.weight", "class_embedding", "transformer.resblocks.0.ln_1.weight"} <= frozen
    assert ({"proj", "ln_post.weight", "transformer.resblocks.1.ln_1.weight"} <= frozen) == (blocks == 2)
    objective = TrainingObjective(model, ObjectivesConfig(), seed=0)
    objective(random_batch(4), 0)[0].backward()
    assert {name for name, p in visual.named_parameters() if p.grad is None} == frozen
    listed = {id(p) for group in parameter_groups(objective, CONFIG) for p in group["params"]}
    assert listed == {id(p) for p in objective.parameters() if p.requires_grad}


def test_more_frozen_blocks_than_there_are():
    with pytest.raises(ValueError, match="training.optim.frozen_vision_blocks is 3; the vision tower has 2 blocks"):
        tiny_model().clip.visual.freeze(3)
