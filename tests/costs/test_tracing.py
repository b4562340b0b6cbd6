"""Operations and live memory, of tensors with data and without."""

import pytest
import torch
from factories import USED, tiny_config

from stoa.costs.batches import full_batch
from stoa.costs.tracing import Tracer
from stoa.models.video_language import VideoLanguageModel
from stoa.objectives.config import ObjectivesConfig
from stoa.objectives.total import TrainingObjective


@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_the_peak_is_of_what_lives_at_a_time(device):
    weight = torch.zeros(100, device=device)
    with Tracer() as tracer:
        tracer.know("weights", [weight])
        a = torch.zeros(1000, device=device)
        b = a + 1
        del a
        c = b.view(10, 100)[2:] * 2
        del b, c
        torch.zeros(500, device=device)
    assert tracer.peak == 4 * (100 + 1000 + 1000)
    assert tracer.peak_by_kind == {"weights": 400, "activations": 8000}
    assert sum(tracer.live.values()) == 400
    assert tracer.operations == 4


def test_a_tensor_has_one_kind_and_its_views_have_none():
    with Tracer() as tracer:
        grad = torch.zeros(10)
        tracer.know("gradients", [grad, grad[2:], grad.view(2, 5)])
    assert tracer.live["gradients"] == 40
    assert tracer.live["activations"] == 0


def test_without_data_a_step_holds_as_much():
    peaks, operations = [], []
    for device in ("cpu", "meta"):
        with torch.device(device):
            model = VideoLanguageModel(tiny_config(), used_token_ids=USED)
        objective = TrainingObjective(model, ObjectivesConfig(), seed=0)
        batch = full_batch(model.config, 2, torch.device(device))
        with Tracer() as tracer:
            tracer.know("weights", model.parameters())
            objective(batch, 0)[0].backward()
        peaks.append(tracer.peak)
        operations.append(tracer.operations)
    assert peaks[0] == peaks[1]
    assert operations[1] == pytest.approx(operations[0], rel=0.02)
