"""Fine-tune a pre-trained model for a task; the best weights are chosen on validation.

On several GPUs: deepspeed --module stoa.cli finetune ...
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields

from jsonargparse import ArgumentParser, Namespace

from stoa.arguments import Command
from stoa.arguments.needs import FINETUNING
from stoa.arguments.parse import Given
from stoa.config import add_launch_arguments, from_dict
from stoa.tasks.config import FinetuneConfig
from stoa.training.config import TrainingConfig


def settle_length(given: Mapping[str, Given], values: Namespace) -> list[str]:
    """A fine-tuning ends after ``epochs`` or at ``training.max_steps``: what was given, on the command line before what
    a recipe holds.

    Raises:
        ValueError: both were given in one place.
    """
    epochs, steps = given.get("epochs"), given.get("training.max_steps")
    if steps is None or (epochs is not None and values.epochs is None):
        return []
    if epochs is None:
        values.epochs = None
        return []
    if epochs.in_recipe == steps.in_recipe:
        raise ValueError(
            f"{steps.where} is {steps.value} and {epochs.where} {epochs.value}, and a run has one length; leave one out"
        )
    if epochs.in_recipe:
        values.epochs = None
        return [f"{steps.where} {steps.value} takes the place of the recipe's epochs, {epochs.value}"]
    values["training.max_steps"] = TrainingConfig.max_steps
    return [f"{epochs.where} {epochs.value} takes the place of the recipe's training.max_steps, {steps.value}"]


COMMAND = Command(FINETUNING, recipes=("a recipe for fine-tuning", "a recipe"), settle=settle_length)
EXAMPLE = (
    "stoa finetune --recipe recipes/finetune/small/captioning.yaml --run runs/demo "
    "--deepspeed_config ds_configs/demo.json"
)


def add_arguments(parser: ArgumentParser) -> None:
    parser.add_argument("--recipe", action="config", help="YAML file of recipes/finetune; other options override it")
    add_launch_arguments(parser)
    parser.add_class_arguments(FinetuneConfig, None)


def config_of(args: Namespace) -> FinetuneConfig:
    return FinetuneConfig(**{field.name: args[field.name] for field in fields(FinetuneConfig)})


def run(args: Namespace) -> None:
    from stoa.tasks.finetune import finetune
    from stoa.training import checkpoint

    config = config_of(args)
    folder = checkpoint.find(config.run)
    pretrained = from_dict(checkpoint.read_run(folder)["config"])
    finetune(config, pretrained, folder, args.deepspeed_config, reshaped=args.resume_reshaped)
