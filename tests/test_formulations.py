"""The other formulations of the training step that `benchmarks/step.py` measures, against the step itself."""

import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from factories import BOXES, random_batch, tiny_config, tiny_model
from torch.nn import functional as F

from stoa.models.config import PRESETS, BackboneConfig, ObjectConfig
from stoa.models.video_language import VideoLanguageModel
from stoa.objectives.config import PRETRAINING_LOSSES, ObjectivesConfig
from stoa.objectives.total import TrainingObjective

sys.path.insert(0, str(Path(__file__).parent.parent / "benchmarks"))

from formulations.clean import CleanObjective  # noqa: E402
from formulations.modules import AlignedObjects, MaskedCopies, WholeSequences  # noqa: E402
from formulations.released import MlpOnBins, ReleasedObjective  # noqa: E402

TOLERANCE = {torch.float32: 1e-5, torch.float64: 1e-10}
STEP = 3


@pytest.fixture
def quick_gelu(monkeypatch: pytest.MonkeyPatch) -> BackboneConfig:
    """The tiny towers, with the activation of OpenAI's."""
    monkeypatch.setitem(PRESETS, "tiny-quick", {**PRESETS["stoa-tiny"], "quick_gelu": True})
    return BackboneConfig(name="tiny-quick")


def objective_of(model: VideoLanguageModel, **config) -> TrainingObjective:
    return TrainingObjective(model, ObjectivesConfig(**config), seed=0)


def gradients(total: torch.Tensor, model: VideoLanguageModel) -> dict[str, torch.Tensor]:
    names, parameters = zip(*model.named_parameters(), strict=True)
    found = torch.autograd.grad(total, parameters, allow_unused=True, materialize_grads=True)
    return dict(zip(names, found, strict=True))


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("seed", [0, 1])
def test_clean_has_our_losses_and_gradients(seed: int, dtype: torch.dtype, quick_gelu: BackboneConfig) -> None:
    model = tiny_model(seed, backbone=quick_gelu).to(dtype)
    objective, batch = objective_of(model), random_batch(4, seed=seed)
    total, logged = objective(batch, STEP)
    clean_total, clean = CleanObjective(objective)(batch, STEP)
    near = {"rtol": TOLERANCE[dtype], "atol": TOLERANCE[dtype]}
    torch.testing.assert_close(clean, {name: logged[name] for name in PRETRAINING_LOSSES}, **near)
    torch.testing.assert_close(clean_total, total, **near)
    ours = gradients(total, model)
    scale = max(float(gradient.abs().max()) for gradient in ours.values())
    for name, gradient in gradients(clean_total, model).items():
        torch.testing.assert_close(
            gradient, ours[name], rtol=0, atol=scale * TOLERANCE[dtype], msg=lambda text, of=name: f"{of}: {text}"
        )


def test_parameters_are_ours() -> None:
    objective = objective_of(tiny_model())
    ours = {id(parameter) for parameter in objective.parameters()}
    assert {id(parameter) for parameter in CleanObjective(objective).parameters()} == ours
    released = ReleasedObjective(objective)
    table = released.model.clip.token_embedding.weight
    assert {id(parameter) for parameter in released.parameters() if parameter is not table} < ours
    assert table.data_ptr() == objective.model.clip.token_embedding.weight.data_ptr()


def test_released_with_our_definitions_has_our_losses() -> None:
    """With the head, the pooling and the number of layers ours, what is left is exact: the loop over positions too."""
    model = tiny_model(objects=ObjectConfig(num_trajectories=4, max_boxes=BOXES, layers=1)).double()
    released, batch = ReleasedObjective(objective_of(model)), random_batch(4)
    released.model.lm_head = model.lm_head
    released.model.objects = model.objects
    _, losses = released(batch, STEP)
    _, logged = objective_of(model, plm_form="two_stream")(batch, STEP)
    expected = {name: logged[name] for name in PRETRAINING_LOSSES}
    torch.testing.assert_close(losses, expected, rtol=1e-10, atol=1e-10)
    _, one_pass = objective_of(model)(batch, STEP)
    assert abs(float(one_pass["plm"] - losses["plm"])) > 1e-3


def test_released_counts_passes_and_products(monkeypatch: pytest.MonkeyPatch) -> None:
    released, batch = ReleasedObjective(objective_of(tiny_model())), random_batch(4)
    calls = {"text": 0, "fusion": 0, "vocabulary": 0}

    def counted(name, function):
        def call(*args, **kwargs):
            calls[name] += 1
            return function(*args, **kwargs)

        return call

    model, L = released.model, batch.tokens_BL.shape[1]
    for name, module, method in (
        ("text", model.clip, "encode_text"),
        ("fusion", model.fusion, "forward"),
        ("vocabulary", model.lm_head, "forward"),
    ):
        monkeypatch.setattr(module, method, counted(name, getattr(module, method)))
    total, _ = released(batch, STEP)
    assert calls == {"text": L - 1 + 3, "fusion": L - 1 + 2, "vocabulary": L - 1 + 1}
    total.backward()
    assert released.model.clip.token_embedding.weight.grad is None
    assert released.model.clip.visual.conv1.weight.grad.any()


def test_released_head_is_a_linear_map_to_the_table() -> None:
    model = tiny_model().double()
    head = ReleasedObjective(objective_of(model)).model.lm_head
    table, rows = model.language_table(), torch.randn(3, model.clip.text_width, dtype=torch.float64)
    expected = (rows @ model.lm_head.dense.weight.T) @ table.T + model.lm_head.bias
    torch.testing.assert_close(head(rows, table), expected)


def test_released_pools_after_the_mlp() -> None:
    """One point a bin, where a box is no larger than the frame and the bins as many as the patches."""
    model, batch = tiny_model().double(), random_batch(3)
    objects, (rows, columns) = model.objects, model.clip.visual.grid_hw
    F_, P, h = batch.boxes_BTK4.shape[0] * batch.boxes_BTK4.shape[1], rows * columns, model.clip.visual.width
    patches = torch.randn(F_, P, h, dtype=torch.float64)
    x1, y1, x2, y2 = batch.boxes_BTK4.double().flatten(0, 1).unbind(-1)
    along_x = x1[..., None] + (x2 - x1)[..., None] * (torch.arange(columns) + 0.5) / columns
    along_y = y1[..., None] + (y2 - y1)[..., None] * (torch.arange(rows) + 0.5) / rows
    points = torch.stack(torch.broadcast_tensors(along_x[:, :, None, :], along_y[:, :, :, None]), dim=-1)
    maps = patches.view(F_, rows, columns, h).permute(0, 3, 1, 2)
    grid = (2 * points - 1).flatten(1, 2)
    bins = F.grid_sample(maps, grid, padding_mode="border", align_corners=False)
    bins = bins.permute(0, 2, 3, 1).reshape(F_, BOXES, P, h)
    hidden = (bins @ objects.mlp[0].weight.T).clamp(min=0)
    pooled = (hidden @ objects.mlp[2].weight.T).clamp(min=0).max(dim=2).values
    valid = batch.labels_BTK >= 0
    expected = objects.ln_features(pooled).view(*valid.shape, h) + objects.ln_box(
        objects.box_mlp(batch.boxes_BTK4.double())
    )
    expected = (expected + objects.frame_embedding + objects.slot_embedding).where(valid[..., None], 0)
    found = MlpOnBins(objects)(patches, batch)
    assert bool(found.valid_BTK.eq(valid).all()) and not valid.all()
    torch.testing.assert_close(found.features_BTKh, expected)
    assert not torch.allclose(expected, AlignedObjects(objects)(patches, batch).features_BTKh, atol=1e-2)


@pytest.mark.parametrize("layers", [1, 2])
def test_masked_copies_equal_packed_trajectories(layers: int) -> None:
    model = tiny_model(objects=ObjectConfig(num_trajectories=4, max_boxes=BOXES, layers=layers)).double()
    batch = random_batch(3)
    boxes = model.objects(torch.randn(6, 16, model.clip.visual.width, dtype=torch.float64), batch)
    for frames in (torch.randn(3, model.clip.visual.width, dtype=torch.float64), None):
        ours = model.trajectories(boxes, batch.labels_BTK, batch.scores_BTK, frames)
        copies = MaskedCopies(model.trajectories)(boxes, batch.labels_BTK, batch.scores_BTK, frames)
        torch.testing.assert_close(copies.tokens_BNd, ours.tokens_BNd)
        assert copies.labels_BN.equal(ours.labels_BN)
    first = MaskedCopies(model.trajectories, layers=1)(boxes, batch.labels_BTK, batch.scores_BTK)
    assert torch.allclose(first.tokens_BNd, ours.tokens_BNd) == (layers == 1)


def test_whole_sequences_equal_cls_rows_alone() -> None:
    encoder = tiny_model().double().actions.encoder
    x = torch.randn(5, 7, encoder.proj.shape[0], dtype=torch.float64)
    torch.testing.assert_close(WholeSequences(encoder)(x, 2), encoder(x, 2))


@pytest.mark.parametrize("change", [{"plm_form": "two_stream"}, {"mlm": 0.5}])
def test_other_losses_are_refused(change: dict) -> None:
    with pytest.raises(ValueError, match="default weights and forms"):
        CleanObjective(objective_of(tiny_model(), **change))


def test_a_graph_is_refused() -> None:
    config = tiny_config()
    graph = replace(config.graph, layers=1)
    with pytest.raises(ValueError, match="without a graph"):
        ReleasedObjective(objective_of(tiny_model(graph=graph)))
