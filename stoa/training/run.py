"""From a configuration to a finished run."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist

from stoa.data.boxes import ClipShape
from stoa.data.ledger import Ledger
from stoa.data.loader import build_loader, open_clips
from stoa.data.sampler import GlobalBatchSampler
from stoa.models.clip import architecture, image_side
from stoa.models.video_language import VideoLanguageModel
from stoa.models.weights import initialize
from stoa.objectives.gather import rank, world_size
from stoa.objectives.total import PretrainingObjective
from stoa.training import engine as ds
from stoa.training.console import Console
from stoa.training.optim import build_optimizer
from stoa.training.state import run_facts
from stoa.training.trainer import Trainer

if TYPE_CHECKING:
    from stoa.config import Config


def pretrain(config: Config, deepspeed_config: str, *, default_data: Callable[[int, int], Path]) -> None:
    """Run a recipe on this rank: read, build, resume, train.

    Args:
        config: the recipe.
        deepspeed_config: path of DeepSpeed's JSON.
        default_data: given the side of the frames and the global batch, makes the data used where the recipe
            names none and returns its manifest. Called on the first rank alone.

    Raises:
        ValueError: whatever of this is wrong, in one line.
    """
    ds_config = ds.read_config(deepspeed_config)
    device = ds.init_distributed()
    console = Console(enabled=rank() == 0)
    if rank() != 0:
        warnings.simplefilter("ignore")  # the first rank says it once for all
    ds_config, changed = ds.fit_precision(ds_config, device)
    if changed is not None:
        console.say(changed)
    ledger = Ledger(Path(config.training.output_dir) / "ledger.jsonl")

    torch.manual_seed(config.training.seed)
    side = image_side(config.model.backbone)
    micro_batch = ds_config["train_micro_batch_size_per_gpu"]
    manifest = _manifest(config, default_data, side, micro_batch * world_size(), console)
    clips = open_clips(config.data, manifest, ledger if rank() == 0 else Ledger(None))
    used = clips.used_token_ids() if config.model.lm_vocab == "used" else None
    model = VideoLanguageModel(config.model, used_token_ids=used)
    if config.init is not None:
        console.say(initialize(model, config.init))
    else:
        console.say(f"{config.model.backbone.name} starts from random weights; --init names pretrained ones")

    objective = PretrainingObjective(model, config.objectives, seed=config.training.seed)
    engine = ds.initialize(objective, build_optimizer(objective, config.training.optim), ds_config)
    sampler = GlobalBatchSampler(
        len(clips),
        micro_batch,
        rank=rank(),
        world=world_size(),
        seed=config.training.seed,
        fingerprint=clips.fingerprint,
    )
    facts = run_facts(config.to_dict(), architecture(config.model.backbone), ds_config, used) if rank() == 0 else None
    shared = [facts]
    dist.broadcast_object_list(shared)
    assert shared[0] is not None
    trainer = Trainer(config.training, engine, sampler, device=device, run_facts=shared[0], console=console)
    trainer.resume()
    shape = ClipShape(
        num_frames=config.model.num_frames,
        side=side,
        max_tokens=config.model.max_tokens,
        max_boxes=config.model.num_boxes,
    )
    trainer.fit(build_loader(config.data, clips, shape, sampler, ledger=ledger, device=device))
    dist.barrier()
    dist.destroy_process_group()


def _manifest(
    config: Config, default_data: Callable[[int, int], Path], side: int, global_batch: int, console: Console
) -> str:
    """The manifest to train on; without one in the recipe, of data the first rank makes."""
    if config.data.manifest is not None:
        return config.data.manifest
    console.say("no data.manifest given: training on Moving Shapes, generated on this machine")
    result: list[Any] = [None]
    if rank() == 0:
        result = [str(default_data(side, global_batch))]
    dist.broadcast_object_list(result)
    return str(result[0])
