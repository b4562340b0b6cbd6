"""From a configuration to a finished run."""

from __future__ import annotations

import json
import os
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.distributed as dist

from stoa.config import Config, model_from_dict
from stoa.costs.flops import flops_per_batch
from stoa.data.boxes import ClipShape
from stoa.data.clips import Clips
from stoa.data.config import DataConfig
from stoa.data.counts import Use
from stoa.data.dataset import LoadedBatch
from stoa.data.ledger import LEDGER_FILE, Ledger
from stoa.data.loader import build_loader, open_clips, opening_lines, to_train_on
from stoa.data.sampler import GlobalBatchSampler
from stoa.data.workers import cores_of_rank
from stoa.files import require_writable
from stoa.locks import only_writer
from stoa.memory import keep_freed_memory
from stoa.models.clip import architecture, image_side, require_architecture
from stoa.models.clip_formats import FOLDER_FILES
from stoa.models.config import ModelConfig
from stoa.models.video_language import VideoLanguageModel
from stoa.models.weights import Trained, initialize, is_run, load_pretrained, locate
from stoa.objectives.config import ObjectivesConfig
from stoa.objectives.gather import from_first_rank, rank, world_size
from stoa.objectives.total import TrainingObjective
from stoa.planning.advice import what_fits
from stoa.planning.automatic import recomputed_on
from stoa.training import checkpoint
from stoa.training import engine as ds
from stoa.training.compiling import compile_parts
from stoa.training.config import TrainingConfig
from stoa.training.console import Console
from stoa.training.deepspeed_config import autocast, read_config
from stoa.training.frozen_outputs import FrozenOutputs
from stoa.training.optim import build_optimizer
from stoa.training.processes import noticing_losses, place, start_limit
from stoa.training.state import run_facts, versions
from stoa.training.trainer import Trainer
from stoa.training.validation import Score, Validation
from stoa.training.watchdog import Watchdog

_OUTPUT = "training.output_dir"


class Process(NamedTuple):
    """This process, before it knows what to train."""

    deepspeed_config: dict[str, Any]
    device: torch.device
    console: Console
    ledger: Ledger
    reshaped: bool
    watchdog: Watchdog


@contextmanager
def joined(training: TrainingConfig, deepspeed_config: str, *, reshaped: bool = False) -> Iterator[Process]:
    """Join the other processes, seed this one, and be the only run to write to ``training.output_dir``.

    Args:
        training: of the run.
        deepspeed_config: path of DeepSpeed's JSON.
        reshaped: what is resumed may be of other processes, see :meth:`Trainer.resume`.

    Raises:
        ValueError: the JSON is wrong, the processes do not know of each other, or another run writes to the folder.
        StorageError: the folder cannot be written to.
        LostProcess: another process has gone.
    """
    ds_config, folder, here = read_config(deepspeed_config), Path(training.output_dir), place(os.environ)
    with noticing_losses(), ExitStack() as held:
        alone, limits = here.world_size == 1, (start_limit().total_seconds(), 60 * training.hang_minutes)
        if alone:  # and need not start DeepSpeed to find out
            held.enter_context(only_writer(folder, _OUTPUT))
        watchdog = held.enter_context(Watchdog(folder, here.rank, *limits))
        with watchdog.phase("meeting"):
            device = ds.init_distributed(alike=versions())
        if not alone:
            from_first_rank(lambda: held.enter_context(only_writer(folder, _OUTPUT)))
        yield _process(training, ds_config, device, reshaped, watchdog)
        with watchdog.phase("end"):
            dist.barrier()
            dist.destroy_process_group()


def _process(
    training: TrainingConfig, ds_config: dict[str, Any], device: torch.device, reshaped: bool, watchdog: Watchdog
) -> Process:
    if device.type == "cpu":
        keep_freed_memory()
    console = Console(enabled=rank() == 0)
    if rank() != 0:
        warnings.simplefilter("ignore")  # the first rank says it once for all
    ds_config, changed = ds.fit_precision(ds_config, device)
    if changed is not None:
        console.say(changed)
    ds.require_valid(ds_config)
    ds.choose_attention(device)
    torch.manual_seed(training.seed)
    ledger = Ledger(Path(training.output_dir) / LEDGER_FILE)
    return Process(ds_config, device, console, ledger, reshaped, watchdog)


Steps = Callable[[Trainer, Callable[[], Iterator[LoadedBatch]]], None]
"""What is done with a trainer and what opens its batches."""


def pretrain(
    config: Config,
    deepspeed_config: str,
    *,
    default_data: Callable[[int, int], Path],
    steps: Steps | None = None,
    reshaped: bool = False,
) -> None:
    """Run a recipe on this rank: read, build, resume, train.

    Args:
        config: the recipe.
        deepspeed_config: path of DeepSpeed's JSON.
        default_data: given the side of the frames and the global batch, makes the data used where the recipe
            names none and returns its manifest. Called on the first rank alone.
        steps: what is done in place of training; nothing is resumed for it.
        reshaped: what is resumed may be of other processes, see :meth:`Trainer.resume`.

    Raises:
        ValueError: whatever of this is wrong, in one line.
    """
    with joined(config.training, deepspeed_config, reshaped=reshaped) as process:
        manifest = _manifest(config, default_data, process)
        ledger = process.ledger if rank() == 0 else Ledger(None)
        clips = open_clips(manifest, config.data.split, ledger, together=config.data.together)
        say_opening(process, clips, manifest, config.data.split, "training", config.model, config.data)
        clips = to_train_on(clips, config.data)
        model, used, before, said = _start(config, clips)
        facts = {"used_token_ids": used, "losses": losses_until_now(config.objectives, before)}
        train(process, config, model, clips, facts=facts, start=said, steps=steps)


def say_opening(
    process: Process, clips: Clips, manifest: str, split: str | None, use: Use, model: ModelConfig, data: DataConfig
) -> None:
    """Say of what the work is; raises on every rank as :func:`stoa.data.loader.opening_lines` does."""
    reading: dict[str, Any] = {"decoder": data.decoder, "max_tokens": model.max_tokens, "max_boxes": model.num_boxes}
    for line in from_first_rank(lambda: opening_lines(clips, manifest, split, use, **reading)):
        process.console.say(line)


def losses_until_now(objectives: ObjectivesConfig, before: dict[str, Any] | None) -> list[str] | None:
    """Names of the losses of a run and of the one it starts from; none where those of the latter are not on record."""
    earlier = [] if before is None else before.get("losses")
    return None if earlier is None else sorted({*objectives.trained, *earlier})


def _start(config: Config, clips: Clips) -> tuple[VideoLanguageModel, list[int] | None, dict[str, Any] | None, str]:
    """The model, the token ids that it predicts (none is all), the run it starts from, and a line that says so."""
    used = clips.used_token_ids() if config.model.lm_vocab == "used" else None
    backbone, init = config.model.backbone, config.init
    if init is None or not is_run(backbone, init):
        if init is not None:
            from_first_rank(lambda: locate(backbone, init))  # the others find in the cache what it has downloaded
        model = VideoLanguageModel(config.model, used_token_ids=used)
        if init is not None:
            return model, used, None, initialize(model, init)
        return model, used, None, f"{backbone.name} starts from random weights; --init names pretrained ones"
    try:
        folder = checkpoint.find(init)
    except ValueError as error:
        raise ValueError(f"--init: {error}, or a folder with weights of CLIP ({', '.join(FOLDER_FILES)})") from None
    run = checkpoint.read_run(folder)
    name, own = run["config"]["model"]["backbone"]["name"], backbone.name
    if name != own:
        raise ValueError(f"--init {folder} is of the backbone {name} and model.backbone.name is {own}; give the same")
    require_architecture(backbone, run["architecture"], f"--init {folder}")
    if used is not None and run["used_token_ids"] is not None:
        used = sorted({*used, *run["used_token_ids"]})
    model = VideoLanguageModel(config.model, used_token_ids=used)
    weights, _ = checkpoint.read_weights(folder)
    trained = Trained(weights, model_from_dict(run["config"]["model"]), run["used_token_ids"], f"--init {folder}")
    load_pretrained(model, trained)
    return model, used, run, f"all that {folder} holds starts from there, step {run['step']}"


def train(
    process: Process,
    config: Config,
    model: VideoLanguageModel,
    clips: Clips,
    *,
    facts: dict[str, Any],
    start: str,
    epochs: float | None = None,
    validate: Callable[[VideoLanguageModel], Score] | None = None,
    steps: Steps | None = None,
) -> None:
    """Train a model on clips, from where ``training.output_dir`` stands.

    Args:
        process: from :func:`joined`.
        config: the recipe.
        model: with the weights it starts from.
        clips: to train on.
        facts: JSON-able, stored with every checkpoint.
        start: a line on what the weights are, said where no checkpoint takes their place.
        epochs: passes over the clips; none is ``training.max_steps`` steps.
        validate: gives the score by which checkpoints are chosen, the higher the better; it is called on every rank
            after each epoch (with ``max_steps``: when a checkpoint is saved) and has to give all the same.
        steps: what is done in place of training; nothing is resumed for it.

    Raises:
        ValueError: the objectives do not fit the model or the clips, what is in ``output_dir`` is of another run, or
            the memory of a GPU does not suffice.
    """
    try:
        _train(process, config, model, clips, facts, start, epochs, validate, steps)
    except torch.OutOfMemoryError as error:
        properties = torch.cuda.get_device_properties(process.device)
        advice = what_fits(
            properties.total_memory,
            config.model,
            config.objectives,
            config.training,
            process.deepspeed_config,
            world=world_size(),
            recomputed=model.recomputed,
            used_token_ids=facts.get("used_token_ids"),
        )
        raise ValueError(f"out of memory on {properties.name}: {advice}") from error


def _train(
    process: Process,
    config: Config,
    model: VideoLanguageModel,
    clips: Clips,
    facts: dict[str, Any],
    start: str,
    epochs: float | None,
    validate: Callable[[VideoLanguageModel], Score] | None,
    steps: Steps | None,
) -> None:
    frozen = config.training.optim.frozen_vision_blocks or 0
    model.clip.visual.freeze(frozen)
    kept = None if steps is not None else config.training.frozen_outputs  # what is measured leaves nothing behind
    if kept is not None:
        _require_frozen(model, process.deepspeed_config)
        from_first_rank(lambda: require_writable(Path(kept), "training.frozen_outputs"))
    if frozen:
        process.console.say(f"{frozen} of {len(model.clip.visual.blocks)} vision blocks stay as they are")
    if config.model.num_boxes and not clips.has_boxes():
        process.console.say(
            "none of the clips has boxes: trajectories stay empty and OTA has nothing to match; 'stoa detect' finds "
            "boxes, recipes/base.yaml and recipes/stgt.yaml want none"
        )
    if config.data.num_workers is None:
        cores = cores_of_rank(os.environ)
        process.console.say(
            f"{config.data.loader_processes} loader process(es) for the {cores} core(s) of a rank (data.num_workers)"
        )
    objective = _objective(process, config, model, facts.get("used_token_ids"))
    sampler = GlobalBatchSampler(
        len(clips),
        process.deepspeed_config["train_micro_batch_size_per_gpu"],
        rank=rank(),
        world=world_size(),
        seed=config.training.seed,
        fingerprint=clips.fingerprint,
        together=config.data.together,
    )
    flops = flops_per_batch(model, config.objectives, sampler.micro_batch, world=world_size())
    if kept is not None:
        del flops["video"]  # of which a clip is computed once
    compile_parts(objective, config.training.compile)
    engine = ds.initialize(objective, build_optimizer(objective, config.training.optim), process.deepspeed_config)
    training, every = config.training, config.training.save_every
    if epochs is not None:
        every = max(1, sampler.batches_per_epoch // ds.accumulation_steps(engine))
        training = replace(training, max_steps=max(1, round(epochs * every)))
    warmup = training.optim.warmup_steps
    if warmup > training.max_steps:
        process.console.say(
            f"training.optim.warmup_steps is {warmup} and the run ends at step {training.max_steps}: the learning "
            f"rates rise to {training.max_steps / warmup:.0%} of their values and no further; lower it or train longer"
        )
    csal = config.objectives.csal
    if csal.share and csal.from_step >= training.max_steps:
        process.console.say(
            f"objectives.csal.from_step is {csal.from_step} and the run ends at step {training.max_steps}: VTC keeps "
            "the own pairs as its target to the end"
        )
    device = torch.cuda.get_device_name(process.device) if process.device.type == "cuda" else "cpu"
    own_facts = from_first_rank(
        lambda: (
            run_facts(config.to_dict(), architecture(config.model.backbone), process.deepspeed_config, device) | facts
        )
    )
    trainer = Trainer(
        training,
        engine,
        sampler,
        device=process.device,
        flops=flops,
        run_facts=own_facts,
        console=process.console,
        watchdog=process.watchdog,
        validation=None if validate is None else Validation(every, validate),
        length_key="training.max_steps" if epochs is None else "epochs",
        max_bad_share=config.data.max_bad_share,
    )
    if steps is not None or not trainer.resume(reshaped=process.reshaped):
        process.console.say(start)
    if kept is not None:
        model.clip.outputs_of_frames = FrozenOutputs(
            Path(kept),
            model.clip.visual,
            architecture=json.dumps(architecture(config.model.backbone), sort_keys=True),
            say=process.console.say,
        )
    shape = ClipShape(
        num_frames=config.model.num_frames,
        side=image_side(config.model.backbone),
        max_tokens=config.model.max_tokens,
        max_boxes=config.model.num_boxes,
    )

    def open_batches() -> Iterator[LoadedBatch]:
        return build_loader(config.data, clips, shape, sampler, ledger=process.ledger, device=process.device)

    (steps or Trainer.fit)(trainer, open_batches)


def _require_frozen(model: VideoLanguageModel, deepspeed_config: Mapping[str, Any]) -> None:
    """Of outputs that are kept. Raises ValueError where they would change, or ranks differ in what they compute."""
    tower = model.clip.visual
    if any(parameter.requires_grad for parameter in tower.parameters()):
        raise ValueError(
            f"training.frozen_outputs is given and the vision tower is trained; set "
            f"training.optim.frozen_vision_blocks to {len(tower.blocks)}, all of its blocks, or frozen_outputs to null"
        )
    if deepspeed_config.get("zero_optimization", {}).get("stage", 0) == 3:
        raise ValueError(
            "training.frozen_outputs is given and the DeepSpeed config has ZeRO stage 3, by which ranks compute the "
            "tower together; take stage 1 or 2, or set frozen_outputs to null"
        )
    if autocast(dict(deepspeed_config)):
        raise ValueError(
            "training.frozen_outputs is given and the DeepSpeed config has torch_autocast, under which a tower gives "
            'other values in training than in validation; take "bf16" or "fp16", or set frozen_outputs to null'
        )


def _objective(
    process: Process, config: Config, model: VideoLanguageModel, used_token_ids: list[int] | None
) -> TrainingObjective:
    """With what it holds at a time settled."""
    training, deepspeed = config.training, process.deepspeed_config
    chunk, clips = training.chunk_clips, deepspeed["train_micro_batch_size_per_gpu"]
    if chunk is not None and chunk >= clips:
        raise ValueError(
            f"training.chunk_clips is {chunk} and train_micro_batch_size_per_gpu, which it divides, {clips}: that is "
            "no chunk; lower it, raise the other, or leave it out"
        )
    if config.model.activation_checkpointing == "auto":
        parts, why = recomputed_on(
            torch.cuda.get_device_properties(process.device).total_memory if process.device.type == "cuda" else None,
            config.model,
            config.objectives,
            training,
            deepspeed,
            world=world_size(),
            used_token_ids=used_token_ids,
        )
        model.recompute(parts)
        process.console.say(why)
    accumulation = deepspeed.get("gradient_accumulation_steps", 1)
    return TrainingObjective(model, config.objectives, seed=training.seed, accumulation=accumulation, chunk_clips=chunk)


def _manifest(config: Config, default_data: Callable[[int, int], Path], process: Process) -> str:
    """The manifest to train on; without one in the recipe, of data the first rank makes."""
    if config.data.manifest is not None:
        return config.data.manifest
    process.console.say("no data.manifest given: training on Moving Shapes, generated on this machine")
    global_batch = process.deepspeed_config["train_micro_batch_size_per_gpu"] * world_size()
    return from_first_rank(lambda: str(default_data(image_side(config.model.backbone), global_batch)))
