"""Nothing on the way from the batch to the losses waits for the host: forward on fake CUDA tensors.

An operator of ours is one node here, whatever its kernel does. A value read by the host (``.item()``, ``nonzero``, a
boolean index) is an error on fake tensors; a copy between host and device is flagged by a dispatch mode.
"""

import dataclasses

import pytest
import torch
from factories import random_batch, tiny_model
from torch._subclasses.fake_tensor import (
    DataDependentOutputException,
    DynamicOutputShapeException,
    FakeTensorMode,
)
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from stoa.batch import VideoTextBatch
from stoa.models.config import ActionConfig, GraphConfig, ObjectConfig
from stoa.objectives.config import CsalConfig, ObjectivesConfig
from stoa.objectives.total import TrainingObjective


class FlagCopies(TorchDispatchMode):
    """Raises where an operator takes or gives tensors of both host and device."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        tensors = [x for x in tree_leaves((args, kwargs, out)) if isinstance(x, torch.Tensor)]
        # torch 2.10 hands the number of `x[:, 0] = 1` over as a tensor of the host; to the kernel it is an argument.
        number_is_set = func is torch.ops.aten.fill_.Tensor and args[1].device.type == "cpu"
        if len({x.device.type for x in tensors}) > 1 and not number_is_set:
            raise AssertionError(f"{func} moves data between host and device")
        return out


def on_fake_device(config: ObjectivesConfig) -> tuple[FakeTensorMode, TrainingObjective, VideoTextBatch]:
    match_by = "likelihood" if config.align_loss == "nce_both" else "ends"
    words = {"word_head": True, "grounding": match_by == "likelihood"}
    objects = ObjectConfig(num_trajectories=4, max_boxes=3, motion=True, relations=True, changes=True, **words)
    actions = ActionConfig(num_tokens=3, motion=True, **words)
    graph = GraphConfig(layers=1 if config.csal.share else 0)
    model = tiny_model(objects=objects, actions=actions, graph=graph, match_by=match_by)
    objective, batch = TrainingObjective(model, config, seed=0), random_batch(4)
    mode = FakeTensorMode()
    with mode:
        for module in objective.modules():
            for own in (module._parameters, module._buffers):
                for name, tensor in own.items():
                    if tensor is not None:
                        fake = torch.empty(tensor.shape, dtype=tensor.dtype, device="cuda")
                        own[name] = torch.nn.Parameter(fake) if own is module._parameters else fake
        fields = {f.name: getattr(batch, f.name) for f in dataclasses.fields(batch)}
        fakes = {name: torch.empty(x.shape, dtype=x.dtype, device="cuda") for name, x in fields.items()}
        return mode, objective, VideoTextBatch(**fakes)


CONFIGS = {
    "default": ObjectivesConfig(),
    "released": ObjectivesConfig(plm_form="two_stream", null_token="start", pad_null=True),
    "nce": ObjectivesConfig(align_loss="nce_both"),
    "stgt": ObjectivesConfig(csal=CsalConfig(share=1.0)),
    "cosine": ObjectivesConfig(align_loss="cosine"),
}


@pytest.mark.parametrize("name", CONFIGS)
def test_forward_and_losses_never_wait(name):
    mode, objective, batch = on_fake_device(CONFIGS[name])
    with mode, FlagCopies():
        loss, scalars = objective(batch, 3)
    assert loss.device.type == "cuda"
    assert {x.device.type for x in scalars.values()} == {"cuda"}


PLANTED = {
    "item": lambda x: x * x.sum().item(),
    "copy": lambda x: x + x.cpu().sum().to(x.device),
    "mask": lambda x: x[x > 0],
    "constant": lambda x: x + torch.tensor([1.0, 2.0], device=x.device).sum(),
}


@pytest.mark.parametrize("fault", PLANTED)
def test_a_planted_wait_is_found(fault):
    mode, objective, batch = on_fake_device(ObjectivesConfig())
    inner = objective.model.encode_text_twice

    def planted(*args):
        text, hidden = inner(*args)
        PLANTED[fault](text.pooled_Bd)
        return text, hidden

    objective.model.encode_text_twice = planted
    found = (AssertionError, DataDependentOutputException, DynamicOutputShapeException)
    with mode, FlagCopies(), pytest.raises(found):
        objective(batch, 3)
