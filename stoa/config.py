"""A run: the components' configurations joined, read from a recipe and the command line."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import jsonargparse

from stoa.arguments import Command, parse
from stoa.arguments.messages import nearest, one_line
from stoa.arguments.needs import PRETRAINING
from stoa.data.config import DataConfig
from stoa.models.config import ModelConfig
from stoa.objectives.config import ObjectivesConfig
from stoa.training.config import TrainingConfig

COMMAND = Command(PRETRAINING, recipes=("a recipe for pre-training", "a recipe"), default_recipe="recipes/stoa.yaml")


@dataclass(frozen=True, kw_only=True)
class Config:
    """A recipe.

    Attributes:
        init: weights to start the CLIP towers from: an open_clip pretrained tag (``openai``), or a local file or
            folder of weights; null is a random start. A run's folder, or one of its checkpoints', starts all that it
            holds, fusion encoder and heads as well.
    """

    data: DataConfig = field(default_factory=DataConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    objectives: ObjectivesConfig = field(default_factory=ObjectivesConfig)
    training: TrainingConfig = field(default_factory=TrainingConfig)
    init: str | None = None

    def to_dict(self) -> dict[str, Any]:
        return dataclasses.asdict(self)


def add_recipe_arguments(parser: jsonargparse.ArgumentParser) -> None:
    """A recipe, and every value of it."""
    parser.add_argument("--recipe", action="config", help="YAML file; other options override it")
    parser.add_class_arguments(Config, None)


def add_run_arguments(parser: jsonargparse.ArgumentParser) -> None:
    """What pre-training takes: a recipe and a DeepSpeed JSON."""
    add_recipe_arguments(parser)
    add_launch_arguments(parser)
    parser.add_argument("--deepspeed", action="store_true", help="accepted for DeepSpeed's launcher; always on")


def add_launch_arguments(parser: jsonargparse.ArgumentParser) -> None:
    """What every training takes."""
    parser.add_argument("--deepspeed_config", type=str, required=True, help="DeepSpeed's own JSON, see ds_configs/")
    parser.add_argument("--local_rank", type=int, default=0, help="set by DeepSpeed's launcher")
    parser.add_argument(
        "--resume-reshaped",
        action="store_true",
        help="go on from a checkpoint of another number of processes, batch, ZeRO stage or precision",
    )


def run_of(arguments: jsonargparse.Namespace) -> Config:
    """The run that parsed arguments describe."""
    return Config(**{f.name: arguments[f.name] for f in dataclasses.fields(Config)})


def parse_run(arguments: Sequence[str]) -> Config:
    """The run that a command line of pre-training describes.

    Raises:
        ValueError: an unknown key (the message names the nearest valid one) or a bad value.
    """
    parser = jsonargparse.ArgumentParser(exit_on_error=False, allow_abbrev=False)
    add_run_arguments(parser)
    return run_of(parse(parser, arguments, COMMAND))


def from_dict(values: dict[str, Any]) -> Config:
    """The reverse of :meth:`Config.to_dict`, for the configuration stored in a checkpoint.

    Raises:
        ValueError: a key is unknown or a value wrong; the message names it.
    """
    parser = jsonargparse.ArgumentParser(exit_on_error=False)
    parser.add_class_arguments(Config, None)
    try:
        config = parser.instantiate(parser.parse_object(values))
    except (jsonargparse.ArgumentError, TypeError) as error:
        raise ValueError(_explain(str(error))) from None
    return Config(**{f.name: config[f.name] for f in dataclasses.fields(Config)})


def model_from_dict(values: dict[str, Any]) -> ModelConfig:
    """A model's configuration from JSON; raises as :func:`from_dict` does."""
    return from_dict({"model": values}).model


def valid_keys(cls: type = Config, prefix: str = "") -> list[str]:
    """Dotted names of all values of a recipe."""
    keys = []
    for f in dataclasses.fields(cls):
        default = f.default_factory() if f.default_factory is not dataclasses.MISSING else f.default
        name = f"{prefix}{f.name}"
        keys += valid_keys(type(default), f"{name}.") if dataclasses.is_dataclass(default) else [name]
    return keys


_UNKNOWN_KEY = re.compile(
    r"Group '(?P<group>[\w.]+)' does not accept option '(?P<option>[\w.]+)'|Option '(?P<key>[\w.]+)'"
)


def _explain(message: str) -> str:
    """The parser's message in one line; for an unknown key with the nearest valid one."""
    line = one_line(message)
    if (found := _UNKNOWN_KEY.search(line)) is None:
        return line
    unknown = found["key"] or f"{found['group']}.{found['option']}"
    near = nearest(unknown, valid_keys())
    return f"unknown recipe key {unknown!r}" + (f"; did you mean {near!r}?" if near else f"; valid: {valid_keys()}")
