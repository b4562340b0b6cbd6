"""Run by test_distributed.py: losses and gradients of one global batch, however many processes.

Writes, on the first rank, {"loss": {name: value}, "grad": {parameter: tensor}} for the given way of running.
"""

import dataclasses
import json
import os
import sys
import tempfile
from pathlib import Path

import torch
import torch.distributed as dist

sys.path.insert(0, str(Path(__file__).parent.parent))

from factories import random_batch, tiny_model  # noqa: E402

from stoa.batch import VideoTextBatch  # noqa: E402
from stoa.models.config import ActionConfig, GraphConfig, ObjectConfig
from stoa.objectives.config import CsalConfig, ObjectivesConfig
from stoa.objectives.gather import mean_over_ranks  # noqa: E402
from stoa.objectives.total import TrainingObjective
from stoa.training import engine as ds  # noqa: E402

GLOBAL_BATCH, STEP = 8, 3


def global_batch() -> VideoTextBatch:
    """A batch with what breaks naive averaging: a rank with few words, repeated clips and captions across ranks, and
    clips without nouns, without verbs, without boxes."""
    batch = random_batch(GLOBAL_BATCH, seed=5, lengths=[2, 3, 2, 2, 12, 9, 11, 12])
    batch.clip_keys_B[6] = batch.clip_keys_B[1]
    batch.caption_keys_B[4] = batch.caption_keys_B[0]
    batch.caption_keys_B[2] = batch.caption_keys_B[3]
    batch.noun_mask_BL[5] = False
    batch.verb_mask_BL[4:6] = False
    batch.labels_BTK[1:3] = -1
    batch.labels_BTK[7] = -1
    return batch


def slice_of(batch: VideoTextBatch, rank: int, world: int) -> VideoTextBatch:
    part = slice(rank * GLOBAL_BATCH // world, (rank + 1) * GLOBAL_BATCH // world)
    return VideoTextBatch(**{f.name: getattr(batch, f.name)[part] for f in dataclasses.fields(batch)})


def run_plain(objective: TrainingObjective, batch: VideoTextBatch) -> tuple[dict, dict]:
    """Backward, then the average over ranks that DDP and DeepSpeed take."""
    loss, scalars = objective(batch, STEP)
    loss.backward()
    grads = {}
    for name, parameter in objective.named_parameters():
        grads[name] = mean_over_ranks(parameter.grad)
    return scalars, grads


def run_deepspeed(objective: TrainingObjective, batch: VideoTextBatch, world: int) -> tuple[dict, dict]:
    """Through ZeRO-1, as training does it."""
    from deepspeed.utils import safe_get_full_grad

    optimizer = torch.optim.AdamW(objective.parameters(), lr=1e-3)
    config = {"train_micro_batch_size_per_gpu": GLOBAL_BATCH // world, "zero_optimization": {"stage": 1}}
    engine = ds.initialize(objective, optimizer, config)
    loss, scalars = engine(batch, STEP)
    engine.backward(loss)
    grads = {name: safe_get_full_grad(parameter).clone() for name, parameter in engine.module.named_parameters()}
    return scalars, grads


def main(out: str, way: str) -> None:
    torch.set_num_threads(1)
    ds.init_distributed()
    rank, world = dist.get_rank(), dist.get_world_size()
    batch = slice_of(global_batch(), rank, world)
    model, losses = tiny_model(), ObjectivesConfig()
    if way == "options":
        graph = GraphConfig(layers=1, residual=False, threshold=0.2)
        words = {"word_head": True, "grounding": True}
        objects = ObjectConfig(num_trajectories=4, max_boxes=3, motion=True, changes=True, **words)
        actions = ActionConfig(num_tokens=3, motion=True, **words)
        model = tiny_model(graph=graph, objects=objects, actions=actions, match_by="likelihood")
        losses = ObjectivesConfig(csal=CsalConfig(share=0.7), align_loss="nce_both", plm_prefix="start")
    objective = TrainingObjective(model, losses, seed=11)
    if way == "deepspeed":
        scalars, grads = run_deepspeed(objective, batch, world)
    else:
        scalars, grads = run_plain(objective.double(), batch)
    means = {name: float(mean_over_ranks(value.double())) for name, value in scalars.items()}
    if rank == 0:
        torch.save({"loss": means, "grad": grads}, out)
        print(json.dumps(means))
    dist.barrier()
    dist.destroy_process_group()


if __name__ == "__main__":
    os.environ.setdefault("TORCH_EXTENSIONS_DIR", tempfile.gettempdir())
    main(sys.argv[1], sys.argv[2])
