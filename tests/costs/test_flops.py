"""The closed form against a count of what is computed."""

import pytest
import torch
from factories import USED, random_batch, tiny_config
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from stoa.costs.flops import flops_per_batch, total_flops
from stoa.models import objects
from stoa.models.config import ActionConfig, BackboneConfig, GraphConfig, ObjectConfig
from stoa.models.video_language import VideoLanguageModel
from stoa.objectives.config import ObjectivesConfig
from stoa.objectives.total import TrainingObjective
from stoa.ops.trajectory_attention import reference as by_products

TRAJECTORIES = ObjectConfig(num_trajectories=4, max_boxes=3)
CASES = {
    "stoa": ({}, {}),
    "base": (
        {"objects": ObjectConfig(num_trajectories=0), "actions": ActionConfig(num_tokens=0)},
        {"ota": 0.0, "asp": 0.0},
    ),
    "stgt": (
        {
            "objects": ObjectConfig(num_trajectories=0),
            "actions": ActionConfig(num_tokens=0),
            "graph": GraphConfig(layers=1),
            "num_frames": 4,
        },
        {"ota": 0.0, "asp": 0.0},
    ),
    "released graph": ({"graph": GraphConfig(layers=2, residual=False, reach=None, pool="none")}, {}),
    "graph of its own frames": ({"graph": GraphConfig(layers=1, reach=0, global_repeats=2, pool="mean")}, {}),
    "additions, words given objects and actions": (
        {
            "objects": ObjectConfig(
                num_trajectories=4,
                max_boxes=3,
                look=True,
                motion=True,
                relations=True,
                changes=True,
                word_head=True,
                grounding=True,
            ),
            "actions": ActionConfig(num_tokens=3, motion=True, word_head=True, grounding=True),
            "joint_last_blocks": 1,
        },
        {"align_loss": "nce_both", "plm_form": "two_stream"},
    ),
    "other widths": ({"backbone": BackboneConfig(name="stoa-small-16")}, {}),
    "matched by likelihood": ({"match_by": "likelihood"}, {"mlm": 0.0, "align_loss": "nce"}),
    "one pass for VTM and PLM, words given actions": (
        {"match_by": "likelihood", "actions": ActionConfig(num_tokens=3, grounding=True)},
        {"plm_prefix": "start"},
    ),
    "matching alone": ({}, {"vtc": 0.0, "mlm": 0.0, "plm": 0.0, "ota": 0.0, "asp": 0.0}),
    "answers": ({"num_answers": 7}, {"answer": 1.0}),
}


def counted(objective, batch) -> int:
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        objective(batch, 0)[0].backward()
    return counter.get_total_flops()


def build(changes: dict, losses: dict, frozen: int = 0) -> tuple[TrainingObjective, ObjectivesConfig]:
    config, objectives = tiny_config(**changes), ObjectivesConfig(**losses)
    model = VideoLanguageModel(config, used_token_ids=USED)
    model.clip.visual.freeze(frozen)
    return TrainingObjective(model, objectives, seed=0), objectives


@pytest.mark.parametrize(("case", "frozen"), [*((case, 0) for case in CASES), ("stoa", 1), ("stoa", 2), ("stgt", 2)])
def test_it_is_what_is_computed(case, frozen, monkeypatch):
    """The counter takes two operations for a gradient as for a product, as the closed form does."""
    monkeypatch.setattr(objects, "trajectory_attention", by_products)
    changes, losses = CASES[case]
    objective, objectives = build(changes, losses, frozen)
    model = objective.model
    side = 64 if "backbone" in changes else 32
    batch = random_batch(3, frames=model.config.num_frames, side=side, lengths=[12, 12, 12])
    expected = total_flops(flops_per_batch(model, objectives, 3))
    assert counted(objective, batch) == pytest.approx(expected, rel=0.01 if frozen else 0.002)


def test_it_grows_with_the_ranks_by_the_scores_alone():
    objective, objectives = build({}, {})
    one, many = (flops_per_batch(objective.model, objectives, 4, world=world) for world in (1, 8))
    assert {name for name in one if one[name] != many[name]} == {"vtc"}
    assert many["vtc"].total == 8 * one["vtc"].total


def test_a_clip_of_another_rank_is_computed_for_one_text():
    """By the likelihood; on one rank a clip is computed for its three texts together."""
    objective, objectives = build({"match_by": "likelihood"}, {})
    one, two, many = (flops_per_batch(objective.model, objectives, 4, world=world) for world in (1, 2, 8))
    assert one["fusion"].total < two["fusion"].total == many["fusion"].total


def test_sizes_are_enough():
    """A model on the meta device costs no memory, however large."""
    with torch.device("meta"):
        model = VideoLanguageModel(tiny_config(), used_token_ids=USED)
    real = VideoLanguageModel(tiny_config(), used_token_ids=USED)
    assert flops_per_batch(model, ObjectivesConfig(), 2) == flops_per_batch(real, ObjectivesConfig(), 2)


def test_the_paper_of_clip_is_met():
    """ViT-B/16: 12 frames of 35.13 GFLOP, reckoned by hand; text and fusion in the facts of the method likewise."""
    from stoa.config import parse_run

    config = parse_run(["--recipe", "recipes/stoa.yaml", "--deepspeed_config", "none"])
    with torch.device("meta"):
        model = VideoLanguageModel(config.model)
    parts = flops_per_batch(model, config.objectives, 1)
    assert parts["video"].forward == pytest.approx(12 * 35.13e9, rel=0.005)
    assert parts["text"].forward == pytest.approx(2 * 2.44e9, rel=0.01)
    assert total_flops(parts) == pytest.approx(1.341e12, rel=0.02)
