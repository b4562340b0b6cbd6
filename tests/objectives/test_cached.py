"""Gradient caching: the loss and every gradient of the whole batch."""

import copy

import pytest
import torch
from factories import random_batch, tiny_model
from torch import nn

from stoa.costs.tracing import Tracer
from stoa.models.config import GraphConfig
from stoa.objectives.cached import encode_in_chunks
from stoa.objectives.config import CsalConfig, ObjectivesConfig
from stoa.objectives.total import TrainingObjective

ALL = ObjectivesConfig(vtm_hard_share=0.7, csal=CsalConfig(share=1.0), align_loss="nce_both")
PLAIN = ObjectivesConfig(mlm=0)


def gradients(config, size, chunk_clips, *, dtype=torch.float64, model=None):
    model = model or tiny_model(graph=GraphConfig(layers=1))
    objective = TrainingObjective(copy.deepcopy(model), config, seed=3, chunk_clips=chunk_clips).to(dtype)
    with Tracer() as tracer:
        loss, scalars = objective(random_batch(size, seed=1), 5)
        loss.backward()
    grads = {name: p.grad for name, p in objective.named_parameters() if p.grad is not None}
    return scalars, grads, tracer


@pytest.mark.parametrize("config", [ALL, PLAIN], ids=["all", "without MLM"])
@pytest.mark.parametrize(
    ("size", "chunk_clips", "dtype", "limit"),
    [
        (4, 2, torch.float64, 1e-10),
        (7, 3, torch.float64, 1e-10),
        (5, 1, torch.float32, 1e-5),
        *(pytest.param(*sizes, torch.float64, 1e-10, marks=pytest.mark.slow) for sizes in ((5, 1), (6, 5))),
        *(pytest.param(*sizes, torch.float32, 1e-5, marks=pytest.mark.slow) for sizes in ((4, 2), (7, 3), (6, 5))),
    ],
)
def test_every_gradient_is_that_of_the_whole_batch(config, size, chunk_clips, dtype, limit):
    scalars, grads, _ = gradients(config, size, None, dtype=dtype)
    cached_scalars, cached, _ = gradients(config, size, chunk_clips, dtype=dtype)
    assert "model.clip.logit_scale" in grads and "model.clip.visual.conv1.weight" in grads
    assert grads.keys() == cached.keys()
    for name, grad in grads.items():
        assert (cached[name] - grad).abs().max() <= limit * max(1.0, grad.abs().max()), name
    torch.testing.assert_close(cached_scalars, scalars, rtol=1e-5, atol=1e-7, equal_nan=True)


@pytest.mark.parametrize("chunk_clips", [4, 9])
def test_a_chunk_that_holds_all_is_the_plain_step(chunk_clips):
    _, grads, plain = gradients(ALL, 4, None)
    _, same, cached = gradients(ALL, 4, chunk_clips)
    assert plain.operations == cached.operations
    assert all(torch.equal(grads[name], same[name]) for name in grads)


def test_random_numbers_are_the_same_when_a_chunk_passes_again():
    """With dropout in the towers the gradient has to be that of the masks of the first pass."""
    torch.manual_seed(0)
    tower, head = nn.Sequential(nn.Linear(6, 8), nn.Dropout(0.5)).double(), nn.Linear(8, 1).double()
    x, parameters = torch.randn(7, 6).double(), list(tower.parameters())

    def encode(chunk):
        return (tower(x[3 * chunk : 3 * chunk + 3]),)

    torch.manual_seed(4)
    (cached,) = encode_in_chunks(encode, 3, parameters)
    after = torch.rand(1)
    loss = (head(cached) * head(cached).mean()).sum()
    own = torch.autograd.grad(loss, parameters)
    assert torch.equal(torch.rand(1), continued(after, encode))
    torch.manual_seed(4)
    whole = torch.cat([encode(chunk)[0] for chunk in range(3)])
    torch.testing.assert_close(cached, whole)
    loss = (head(whole) * head(whole).mean()).sum()
    torch.testing.assert_close(own, torch.autograd.grad(loss, parameters))


def continued(after, encode):
    """The number that comes next where nothing but the forward passes has drawn."""
    torch.manual_seed(4)
    for chunk in range(3):
        encode(chunk)
    assert torch.equal(torch.rand(1), after)
    return torch.rand(1)


def test_autocast_is_the_same_when_a_chunk_passes_again():
    tower = nn.Linear(64, 64)
    dtypes = []

    def encode(chunk):
        out = tower(torch.ones(2, 64))
        dtypes.append(out.dtype)
        return (out,)

    with torch.autocast("cpu", torch.bfloat16):
        (out,) = encode_in_chunks(encode, 2, list(tower.parameters()))
    out.float().sum().backward()
    assert dtypes == [torch.bfloat16] * 4


def test_chunks_hold_less_at_a_time():
    _, _, whole = gradients(ALL, 32, None)
    _, _, chunks = gradients(ALL, 32, 8)
    assert chunks.peak < 0.7 * whole.peak
