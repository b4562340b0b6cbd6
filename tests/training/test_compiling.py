"""torch.compile as a switch: the losses and gradients of a step that is not compiled."""

import copy

import pytest
import torch
from factories import grounded, random_batch, tiny_model
from torch import nn
from torch._dynamo.testing import CompileCounterWithBackend

from stoa.models.config import GraphConfig
from stoa.models.layers import Block, masked
from stoa.objectives.config import CsalConfig, ObjectivesConfig
from stoa.objectives.total import TrainingObjective
from stoa.training.compiling import compile_parts

pytestmark = pytest.mark.filterwarnings("ignore:The .grad attribute")  # torch's compiler looks at it

STEPS = 3
OBJECTIVES = ObjectivesConfig(vtm_hard_share=0.8, vtm_ramp_steps=2, csal=CsalConfig(share=1.0, from_step=1))


@pytest.fixture(autouse=True)
def fresh_compiler():
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


def trained(what, match_by="ends", **options):
    """Losses of some steps, gradients of the last, and names of the weights."""
    words = grounded(match_by == "likelihood")
    model = tiny_model(graph=GraphConfig(layers=1), activation_checkpointing=("fusion",), match_by=match_by, **words)
    objective = TrainingObjective(model, OBJECTIVES, seed=0)
    compile_parts(objective, what, **options)
    losses = []
    for step in range(STEPS):
        objective.zero_grad()
        loss, scalars = objective(random_batch(4, seed=step), torch.full((), step))
        loss.backward()
        losses.append({name: value.detach() for name, value in scalars.items()})
    return losses, {name: p.grad for name, p in objective.named_parameters()}, list(objective.state_dict())


def same(what, match_by="ends", **options):
    plain, compiled = trained("none", match_by), trained(what, match_by, **options)
    torch.testing.assert_close(compiled[0], plain[0], equal_nan=True)
    torch.testing.assert_close(compiled[1], plain[1])
    assert compiled[2] == plain[2]


def test_a_compiled_block_is_the_same():
    torch.manual_seed(0)
    blocks = nn.ModuleList(Block(32, 2, 64, nn.GELU()) for _ in range(2))
    plain, x, mask = copy.deepcopy(blocks), torch.randn(3, 5, 32), torch.rand(3, 1, 5, 5) < 0.8
    counter = CompileCounterWithBackend("aot_eager")
    compile_parts(blocks, "blocks", backend=counter)
    for model in (plain, blocks):
        model[1](model[0](x), masked(mask | torch.eye(5, dtype=torch.bool))).square().sum().backward()
    assert counter.frame_count > 0
    assert list(blocks.state_dict()) == list(plain.state_dict())
    for own, other in zip(blocks.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(own.grad, other.grad)


@pytest.mark.slow
@pytest.mark.parametrize("match_by", ["ends", "likelihood"])
@pytest.mark.parametrize("what", ["blocks", "forward"])
def test_a_compiled_step_is_the_same(what, match_by):
    counter = CompileCounterWithBackend("aot_eager")
    same(what, match_by, backend=counter)
    assert counter.frame_count > 0


@pytest.mark.slow
def test_one_graph_serves_all_steps():
    counter = CompileCounterWithBackend("aot_eager")
    model = tiny_model()
    objective = TrainingObjective(model, ObjectivesConfig(vtm_ramp_steps=2), seed=0)
    compile_parts(objective, "forward", backend=counter)
    counts = []
    for step in range(STEPS):
        objective(random_batch(4, seed=step), torch.full((), step))[0].backward()
        counts.append(counter.frame_count)
    assert counts[0] > 0 and counts == counts[:1] * STEPS


@pytest.mark.slow
@pytest.mark.parametrize("what", ["blocks", "forward"])
def test_what_inductor_makes_is_the_same(what):
    same(what)
