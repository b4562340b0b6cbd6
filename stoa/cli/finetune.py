"""Fine-tune a pre-trained model for a task; the best weights are chosen on validation.

On several GPUs: deepspeed --module stoa.cli finetune ...
"""

from __future__ import annotations

from dataclasses import fields

from jsonargparse import ArgumentParser, Namespace

from stoa.config import from_dict
from stoa.tasks.finetune import FinetuneConfig, finetune
from stoa.training import checkpoint


def add_arguments(parser: ArgumentParser) -> None:
    parser.add_argument("--recipe", action="config", help="YAML file of recipes/finetune; other options override it")
    parser.add_argument("--deepspeed_config", type=str, required=True, help="DeepSpeed's own JSON, see ds_configs/")
    parser.add_argument("--local_rank", type=int, default=0, help="set by DeepSpeed's launcher")
    parser.add_class_arguments(FinetuneConfig, None)


def config_of(args: Namespace) -> FinetuneConfig:
    return FinetuneConfig(**{field.name: args[field.name] for field in fields(FinetuneConfig)})


def run(args: Namespace) -> None:
    config = config_of(args)
    folder = checkpoint.find(config.run)
    pretrained = from_dict(checkpoint.read_run(folder)["config"])
    finetune(config, pretrained, folder, args.deepspeed_config)
