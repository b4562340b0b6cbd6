"""Recipes, overrides, and what is said about a key that is not there."""

import importlib
import json
import re
from pathlib import Path

import pytest
import torch
from jsonargparse import ArgumentParser

from stoa import processor
from stoa.cli import COMMANDS
from stoa.config import Config, from_dict, parse_run, valid_keys
from stoa.objectives.config import LOSSES
from stoa.training.deepspeed_config import read_config
from stoa.training.engine import choose_attention, fit_precision

ROOT = Path(__file__).parent.parent
RECIPES = sorted(
    path
    for path in (ROOT / "recipes").rglob("*.yaml")
    if not {"finetune", "ablation"} & {*path.parts} and not path.name.startswith("plan")
)


def parse(*arguments: str) -> Config:
    return parse_run(["--deepspeed_config", "x.json", *arguments])


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda p: f"{p.parent.name}/{p.stem}")
def test_every_recipe_is_valid_and_survives_a_checkpoint(recipe):
    config = parse("--recipe", str(recipe))
    assert from_dict(json.loads(json.dumps(config.to_dict()))) == config


def test_a_recipe_stands_alone():
    """The default recipe does not shine through another one."""
    assert parse("--recipe", str(ROOT / "recipes" / "demo.yaml")).model.activation_checkpointing is False
    assert parse().model.activation_checkpointing == "auto"


@pytest.mark.parametrize("command", COMMANDS)
def test_every_option_of_a_command_is_explained(command):
    parser = ArgumentParser(exit_on_error=False)
    importlib.import_module(COMMANDS[command]).add_arguments(parser)
    options = {name: action.help for action in parser._actions for name in action.option_strings or [action.dest]}
    assert len(options) > 2 and all(options.values()), [name for name, text in options.items() if not text]
    # A reader of --help has no use for the name of a function.
    assert not [name for name, text in options.items() if re.search(":[a-z]+:`|see there", text)]


def test_the_command_line_overrides_the_recipe():
    config = parse("--training.max_steps", "2", "--objectives.vtm=0", "--model.backbone.name", "stoa-tiny")
    assert (config.training.max_steps, config.objectives.vtm, config.model.backbone.name) == (2, 0.0, "stoa-tiny")
    assert config.objectives.vtc == 1.0


@pytest.mark.parametrize("recipe", [["--recipe", "{}"], ["--recipe={}"]])
def test_the_command_line_overrides_a_recipe_that_comes_after_it(recipe):
    given = [word.format(ROOT / "recipes" / "stgt.yaml") for word in recipe]
    config = parse("--training.max_steps", "2", "--training.output_dir", "runs/mine", *given)
    assert (config.training.max_steps, config.training.output_dir) == (2, "runs/mine")
    assert config.model.graph.layers == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--training.seed", "-1"], "training.seed is -1"),
        (["--training.max_steps", "0"], "training.max_steps is 0; expected at least 1"),
        (["--training.save_every", "0"], "training.save_every is 0; expected at least 1"),
        (["--training.optim.new_lr", "-1"], "training.optim.new_lr is -1"),
        (["--training.optim.beta2", "1"], "training.optim.beta2 is 1.0; expected 0 or more and less than 1"),
        (["--training.optim.eps", "0"], "training.optim.eps is 0.0; expected more than 0"),
        (["--model.backbone.name", "ViT-Q"], "model.backbone.name 'ViT-Q' is neither"),
        (["--model.max_tokens", "2"], "model.max_tokens is 2"),
        (["--model.num_frames", "0"], "model.num_frames is 0"),
        (["--model.activation_checkpointing", "tower"], "model.activation_checkpointing"),
        (["--training.compile", "all"], "training.compile.*none, blocks, forward"),
        (["--model.joint_last_blocks", "-1"], "model.joint_last_blocks is -1"),
        (["--model.fusion.layers", "0"], "model.fusion.layers is 0"),
        (["--data.num_workers", "-1"], "data.num_workers is -1"),
        (["--objectives.vtc", "-0.5"], "objectives.vtc is -0.5"),
        (["--objectives.ota", "-1"], "objectives.ota is -1"),
        (["--model.objects.max_boxes", "0"], "model.objects.max_boxes is 0 and num_trajectories 20"),
        (["--model.actions.num_tokens", "-1"], "model.actions.num_tokens is -1"),
    ],
)
def test_a_value_out_of_range_is_one_line_that_names_it(arguments, message):
    with pytest.raises(ValueError, match=message) as caught:
        parse(*arguments)
    assert "\n" not in str(caught.value)


def test_all_weights_zero_is_refused():
    with pytest.raises(ValueError, match="all weights under objectives are 0"):
        parse(*(f"--objectives.{name}=0" for name in LOSSES))


def test_valid_keys_are_those_of_the_recipes():
    assert {"init", "data.manifest", "model.backbone.name", "training.optim.clip_lr"} <= set(valid_keys())


def test_fp16_is_turned_off_where_there_is_no_gpu():
    import torch

    config = read_config(ROOT / "ds_configs" / "pretrain.json")
    assert config["fp16"]["enabled"] is True
    changed, said = fit_precision(config, torch.device("cpu"))
    assert changed["fp16"] == {"enabled": False}
    assert "fp32" in said
    assert fit_precision(config, torch.device("cuda")) == (config, None)
    assert config["fp16"]["enabled"] is True


@pytest.mark.parametrize("key", ["bf16", "torch_autocast"])
def test_bf16_is_refused_where_it_is_emulated(monkeypatch, key):
    import torch

    config = {"train_micro_batch_size_per_gpu": 1, key: {"enabled": True}}
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "Tesla V100")
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation=True: including_emulation)
    with pytest.raises(ValueError, match=r'asks for bf16, which Tesla V100 .* take "fp16": \{"enabled": true\}'):
        fit_precision(config, torch.device("cuda"))
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation=True: True)
    assert fit_precision(config, torch.device("cuda")) == (config, None)


@pytest.mark.parametrize(
    ("flags", "has_it"),
    [
        ("flags\t\t: fpu sse2 fma avx2", False),
        ("flags\t\t: fpu avx2 avx512f avx512bw", True),
        ("flags\t\t: fpu avx512_bf16 amx_bf16", True),
        ("Features\t: fp asimd bf16", True),
        ("Features\t: fp asimd", False),
        ("", True),  # unknown
    ],
)
def test_bf16_without_instructions_for_it_is_told(monkeypatch, tmp_path, flags, has_it):
    import torch

    (tmp_path / "cpuinfo").write_text(f"processor\t: 0\nmodel name\t: Some CPU\n{flags}\n")
    monkeypatch.setattr(processor, "_CPUINFO", tmp_path / "cpuinfo")
    assert processor.processor_name() == "Some CPU"
    for key in ("bf16", "torch_autocast"):
        config = {"train_micro_batch_size_per_gpu": 1, key: {"enabled": True}}
        kept, said = fit_precision(config, torch.device("cpu"))
        assert kept == config
        assert said is None if has_it else "has no instructions" in said and f"take {key} out" in said
    assert fit_precision({"train_micro_batch_size_per_gpu": 1}, torch.device("cpu"))[1] is None


def test_attention_is_never_that_of_cudnn():
    cuda = torch.backends.cuda
    assert cuda.cudnn_sdp_enabled() and cuda.flash_sdp_enabled()
    try:
        choose_attention(torch.device("cpu"))
        assert cuda.cudnn_sdp_enabled() and cuda.flash_sdp_enabled()
        choose_attention(torch.device("cuda"))
        assert not cuda.cudnn_sdp_enabled() and cuda.flash_sdp_enabled()
    finally:
        cuda.enable_cudnn_sdp(True)
