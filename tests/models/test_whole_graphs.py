"""The model's users of the operators compile as one graph and are exported."""

import pytest
import torch
from factories import random_batch, tiny_model
from torch import nn

from stoa.ops import batched_assignment, build_info

needs_extension = pytest.mark.skipif(not build_info()["compiled"], reason="the extension is not built")


class Trajectories(nn.Module):
    """Patches to trajectory tokens, and these matched to columns: all three operators."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        model = tiny_model()
        self.objects, self.trajectories = model.objects, model.trajectories
        self.batch = random_batch(2, seed=1)

    def forward(self, patches_FPh: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        boxes = self.objects(patches_FPh, self.batch)
        found = self.trajectories(boxes, self.batch.labels_BTK, self.batch.scores_BTK)
        match, _ = batched_assignment(found.tokens_BNd.detach() @ found.tokens_BNd.detach().transpose(1, 2))
        return found.tokens_BNd, match


@pytest.fixture
def module_and_patches() -> tuple[Trajectories, torch.Tensor]:
    module = Trajectories()
    frames = module.batch.boxes_BTK4.shape[0] * module.batch.boxes_BTK4.shape[1]
    h, w = module.objects.grid_hw
    return module, torch.randn(frames, h * w, module.trajectories.cls.shape[0])


@needs_extension
def test_compiles_as_one_graph_and_trains(module_and_patches):
    module, patches = module_and_patches
    compiled = torch.compile(module, fullgraph=True, backend="aot_eager")
    results = []
    for run in (module, compiled):
        module.zero_grad()
        tokens, match = run(patches)
        tokens.square().sum().backward()
        results.append((tokens, match, [p.grad for p in module.parameters()]))
    torch.testing.assert_close(results[0], results[1])


@needs_extension
def test_is_exported(module_and_patches):
    module, patches = module_and_patches
    program = torch.export.export(module, (patches,))
    called = {node.target for node in program.graph.nodes if node.op == "call_function"}
    for operator in ("roi_align_max", "trajectory_attention", "batched_assignment"):
        assert getattr(torch.ops.stoa, operator).default in called
    torch.testing.assert_close(program.module()(patches), module(patches))
