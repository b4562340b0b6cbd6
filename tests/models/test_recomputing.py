"""Activations that are not kept: the same outputs and gradients, and less memory."""

import itertools

import pytest
import torch
from factories import random_batch, tiny_model

from stoa.costs.tracing import Tracer
from stoa.models.config import RECOMPUTABLE, GraphConfig, recomputed_parts
from stoa.objectives.config import ObjectivesConfig
from stoa.objectives.total import TrainingObjective

CHOICES = [parts for count in range(4) for parts in itertools.combinations(RECOMPUTABLE, count)]


def step(recomputed):
    model = tiny_model(graph=GraphConfig(layers=2), activation_checkpointing=recomputed)
    objective = TrainingObjective(model, ObjectivesConfig(), seed=0)
    with Tracer() as tracer:
        loss, _ = objective(random_batch(4), 0)
        loss.backward()
    grads = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    return loss.detach(), grads, tracer


@pytest.mark.parametrize("recomputed", [*CHOICES[1:], True], ids=str)
def test_it_changes_no_bit_and_saves_memory(recomputed):
    loss, grads, kept = step(())
    again, same, less = step(recomputed)
    assert torch.equal(loss, again)
    assert grads.keys() == same.keys()
    assert all(torch.equal(grads[name], same[name]) for name in grads)
    assert less.operations > kept.operations
    assert less.peak < kept.peak or recomputed == ("fusion",)  # which is a small part of this model


@pytest.mark.parametrize(
    ("value", "parts"),
    [
        (True, ("towers", "graph", "fusion")),
        (False, ()),
        ((), ()),
        (("fusion", "towers"), ("towers", "fusion")),
        (["graph"], ("graph",)),
    ],
)
def test_what_a_recipe_says(value, parts):
    assert recomputed_parts(value) == parts


def test_auto_is_left_to_the_run():
    model = tiny_model(activation_checkpointing="auto")
    assert not model.clip.recomputing
    model.recompute(("towers",))
    assert model.clip.recomputing and model.clip.visual.recomputing and not model.fusion.recomputing
