"""Run by test_zero.py and test_states.py on each rank: losses of steps under DeepSpeed configurations, the weights
behind them, and states that other processes and stages go on from."""

import json
import sys
from pathlib import Path

import torch
import torch.distributed as dist
from safetensors.torch import save_file

sys.path.insert(0, str(Path(__file__).parent.parent))

from factories import random_batch, tiny_model  # noqa: E402

from stoa.models.config import GraphConfig
from stoa.objectives.config import ObjectivesConfig
from stoa.objectives.gather import mean_over_ranks, rank, world_size  # noqa: E402
from stoa.objectives.total import TrainingObjective
from stoa.training import engine as ds  # noqa: E402
from stoa.training import states  # noqa: E402
from stoa.training.config import OptimConfig
from stoa.training.optim import build_optimizer

CLIPS = 6
"""Of all ranks."""


def trained(deepspeed, device, steps, chunk_clips=None, read=None, write=None):
    """Losses and norms of the steps, behind those of the states that are read; the weights behind them."""
    model = tiny_model(graph=GraphConfig(layers=1))
    model.clip.visual.freeze(1)
    objective = TrainingObjective(model, ObjectivesConfig(), seed=0, chunk_clips=chunk_clips)
    optimizer = build_optimizer(objective, OptimConfig(warmup_steps=0, frozen_vision_blocks=1))
    for group in optimizer.param_groups:
        group["lr"] = 1e-3
    engine = ds.initialize(objective, optimizer, deepspeed)
    each = CLIPS // world_size()
    losses, norms, first = [], [], 0
    if read is not None:
        states.read(engine, Path(read), Path(read, "model.safetensors"))
        first = engine.global_steps
    for step in range(first, first + steps * ds.accumulation_steps(engine)):
        batch = random_batch(CLIPS, seed=step).rows(slice(rank() * each, (rank() + 1) * each))
        loss, _ = engine(batch, torch.full((), step))
        engine.backward(loss)
        engine.step()
        losses.append(mean_over_ranks(loss).item())
        if (step + 1) % ds.accumulation_steps(engine) == 0:
            norms.append(ds.grad_norm(engine, device).item())
    if write is not None:
        if rank() == 0:
            Path(write, "states").mkdir()
        dist.barrier()
        states.write(states.take(engine, copy=False), Path(write))
        weights = ds.whole_weights(model)
        if rank() == 0:
            save_file(weights, Path(write, "model.safetensors"))
    return {"losses": losses, "norms": norms}, ds.whole_weights(objective)


def main(out: str, runs: str) -> None:
    device = ds.init_distributed()
    for name, run in json.loads(runs).items():
        told, weights = trained(device=device, **run)
        if rank() == 0:
            save_file(weights, f"{out}/{name}.safetensors")
            Path(out, f"{name}.json").write_text(json.dumps(told))


if __name__ == "__main__":
    main(*sys.argv[1:])
