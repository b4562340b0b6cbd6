"""Run by test_operations.py: how many operations on tensors a training step issues, by part, as JSON.

The model is the recipe ``stoa`` with towers as deep as ViT-B/16's and narrow. What only makes another view of a tensor
launches nothing, and does not count.
"""

import json
import sys
from pathlib import Path

import torch

from stoa.config import parse_run
from stoa.costs.batches import full_batch
from stoa.costs.tracing import Tracer
from stoa.models.config import PRESETS
from stoa.models.video_language import VideoLanguageModel
from stoa.objectives.total import TrainingObjective
from stoa.training import engine as ds
from stoa.training.optim import build_optimizer

DEEP_AND_NARROW = {
    "embed_dim": 32,
    "quick_gelu": True,
    "vision_cfg": {"image_size": 32, "patch_size": 8, "width": 48, "layers": 12, "head_width": 16},
    "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 12},
}


def main(out: str, precision: str) -> None:
    ds.init_distributed()
    PRESETS["narrow"] = DEEP_AND_NARROW
    given = ("--recipe", "recipes/stoa.yaml", "--deepspeed_config", "none", "--model.backbone.name", "narrow")
    config = parse_run([*given, "--model.activation_checkpointing", "false"])
    objective = TrainingObjective(VideoLanguageModel(config.model), config.objectives, seed=0)
    zero = {"train_micro_batch_size_per_gpu": 2, "gradient_clipping": 1.0, "zero_optimization": {"stage": 1}}
    own = {} if precision == "fp32" else {precision: {"enabled": True}}
    engine = ds.initialize(objective, build_optimizer(objective, config.training.optim), {**zero, **own})
    batch = full_batch(config.model, 2, torch.device("cpu"))
    for step in range(2):  # the first makes the optimiser's states
        with Tracer() as forward:
            loss, _ = engine(batch, step)
        with Tracer() as backward:
            engine.backward(loss)
        with Tracer() as update:
            engine.step()
    counts = {"forward": forward.operations, "backward": backward.operations, "step": update.operations}
    Path(out).write_text(json.dumps({**counts, "parameters": len(list(objective.parameters()))}))


if __name__ == "__main__":
    main(*sys.argv[1:])
