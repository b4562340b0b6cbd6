"""fp16 without a GPU: the small model cast as DeepSpeed casts it, forward and backward on the CPU."""

from itertools import product

import pytest
import torch
from factories import USED, random_batch, tiny_config

from stoa.models.config import ActionConfig, BackboneConfig, GraphConfig, ObjectConfig
from stoa.models.video_language import VideoLanguageModel
from stoa.objectives.config import PRETRAINING_LOSSES, ObjectivesConfig
from stoa.objectives.total import TrainingObjective

FRAMES, SIDE, TOKENS, BOXES = 4, 64, 24, 5


def small_objective(config: ObjectivesConfig, graph: GraphConfig | None = None) -> TrainingObjective:
    torch.manual_seed(0)
    model = tiny_config(
        backbone=BackboneConfig(name="stoa-small"),
        num_frames=FRAMES,
        max_tokens=TOKENS,
        objects=ObjectConfig(
            num_trajectories=6,
            max_boxes=BOXES,
            motion=True,
            relations=True,
            changes=True,
            word_head=True,
            grounding=True,
        ),
        actions=ActionConfig(num_tokens=3, motion=True, word_head=True, grounding=True),
        graph=graph or GraphConfig(layers=1),
    )
    return TrainingObjective(VideoLanguageModel(model, used_token_ids=USED), config, seed=0)


def small_batch():
    return random_batch(6, frames=FRAMES, side=SIDE, max_tokens=TOKENS, max_boxes=BOXES)


@pytest.mark.parametrize("plm_form", ["one_pass", "two_stream"])
def test_losses_are_near_those_of_fp32(plm_form):
    config = ObjectivesConfig(plm_form=plm_form)
    _, exact = small_objective(config)(small_batch(), 0)
    objective = small_objective(config).half()
    loss, scalars = objective(small_batch(), 0)
    assert loss.dtype == torch.float32
    for name in PRETRAINING_LOSSES:
        assert scalars[name].dtype == torch.float32
        assert float(scalars[name]) == pytest.approx(float(exact[name]), rel=0.02), name
    (1024 * loss).backward()
    for name, parameter in objective.named_parameters():
        assert parameter.grad is not None, name
        assert torch.isfinite(parameter.grad).all(), name
        assert parameter.grad.dtype == torch.float16


def plant(module: torch.nn.Module, value: float) -> None:
    """Some channels of the module's output become ``value``, as a few of a trained ViT's are."""

    def hook(module, inputs, output):
        spike = torch.zeros_like(output)
        spike[..., ::17] = value
        return output + spike

    module.register_forward_hook(hook)


AT_ONCE = [(300.0, 0, True), (-300.0, 1, True), (-300.0, 2, True), (300.0, 2, False)]
OTHERS = [case for case in product((300.0, -300.0), (0, 1, 2), (True, False)) if case not in AT_ONCE]


@pytest.mark.parametrize(
    ("value", "block", "residual"), [*AT_ONCE, *(pytest.param(*case, marks=pytest.mark.slow) for case in OTHERS)]
)
def test_activations_of_300_stay_finite(block, value, residual):
    graph = GraphConfig(layers=1, residual=residual)
    objective = small_objective(ObjectivesConfig(), graph).half()
    plant(objective.model.clip.visual.blocks[block], value)
    plant(objective.model.clip.text_blocks[block], value)
    loss, scalars = objective(small_batch(), 0)
    for name in PRETRAINING_LOSSES:
        assert torch.isfinite(scalars[name]), name
    loss.backward()
    for name, parameter in objective.named_parameters():
        assert torch.isfinite(parameter.grad).all(), name


def test_action_scores_beyond_fp16_stay_finite():
    """Unscaled scores that fp16 cannot hold."""
    objective = small_objective(ObjectivesConfig()).half()
    with torch.no_grad():
        objective.model.actions.queries.fill_(3.0)
    plant(objective.model.clip.visual.blocks[1], 6000.0)
    loss, _ = objective(small_batch(), 0)
    assert torch.isfinite(loss)
    scores = objective.model.actions.queries.half() @ torch.full((96,), 6000.0).half()
    assert not torch.isfinite(scores).any()
