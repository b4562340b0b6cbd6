"""DeepSpeed's JSON: every mistake has a line of its own, with file, key, value and what to write."""

import json
import re
from pathlib import Path

import pytest

from stoa.training.deepspeed_config import BF16, FP16, TOP, ZERO, read_config
from stoa.training.engine import require_valid

ROOT = Path(__file__).parent.parent.parent
SOUND = {"train_micro_batch_size_per_gpu": 8, "gradient_clipping": 1.0, "zero_optimization": {"stage": 1}}


@pytest.mark.parametrize("path", sorted((ROOT / "ds_configs").glob("*.json")), ids=lambda p: p.stem)
def test_every_configuration_of_ours_serves_any_number_of_processes(path):
    config = read_config(path)
    assert config == json.loads(path.read_text())
    assert "train_batch_size" not in config
    assert config["gradient_clipping"] == 1.0
    require_valid({**config, "fp16": {"enabled": False}})


def refused(tmp_path, config) -> str:
    path = tmp_path / "ds.json"
    path.write_text(config if isinstance(config, str) else json.dumps(config))
    with pytest.raises(ValueError) as caught:
        read_config(path)
    said = str(caught.value)
    assert said.startswith(f"--deepspeed_config {path}"), said
    assert "\n" not in said
    return said.removeprefix(f"--deepspeed_config {path}").removeprefix(":").strip()


def values(known, prefix=()):
    """(path of keys, rule) of all that take a value."""
    for key, rule in known.items():
        if isinstance(rule, dict):
            yield from values(rule, (*prefix, key))
        elif rule is not None and not isinstance(rule, str):
            yield (*prefix, key), rule


def with_value(keys, value):
    config = json.loads(json.dumps(SOUND))
    block = config
    for key in keys[:-1]:
        block = block.setdefault(key, {})
    block[keys[-1]] = value
    return config


@pytest.mark.parametrize(("keys", "rule"), [*values(TOP)], ids=[".".join(keys) for keys, _ in values(TOP)])
def test_a_value_of_another_type_is_named_with_what_to_write(tmp_path, keys, rule):
    name = ".".join(keys)
    for wrong in ("auto", None, {}, [1], "x", -1, -0.5):
        assert refused(tmp_path, with_value(keys, wrong)).startswith(f"{name} is {json.dumps(wrong)}; ")
    assert "Hugging Face's word" in refused(tmp_path, with_value(keys, "auto"))
    if rule.noun == "true or false":
        assert f'{name} is "true"; write it without quotes: true' == refused(tmp_path, with_value(keys, "true"))
        assert f"{name} is 1; expected true or false" == refused(tmp_path, with_value(keys, 1))
    elif "number" in rule.noun:
        assert f'{name} is "1"; write it without quotes: 1' == refused(tmp_path, with_value(keys, "1"))
        assert f"{name} is true; expected {rule.noun}" == refused(tmp_path, with_value(keys, True))


@pytest.mark.parametrize("name", ["train_micro_batch_size_per_gpu", "gradient_accumulation_steps"])
@pytest.mark.parametrize("value", [0, -1, 1.5])
def test_sizes_start_at_one(tmp_path, name, value):
    said = refused(tmp_path, {**SOUND, name: value})
    assert said == f"{name} is {value}; expected a whole number, 1 or more"


def test_whole_numbers_may_be_written_as_others(tmp_path):
    (tmp_path / "ds.json").write_text(
        '{"train_micro_batch_size_per_gpu": 8.0, "zero_optimization": {"reduce_bucket_size": 5e8}}'
    )
    config = read_config(tmp_path / "ds.json")
    assert config["zero_optimization"]["reduce_bucket_size"] == 500_000_000
    assert isinstance(config["train_micro_batch_size_per_gpu"], int)


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"optimizer": {"type": "AdamW", "params": {"lr": 1e-4}}}, "in the recipe: training.optim.clip_lr, new_lr"),
        ({"scheduler": {"type": "WarmupLR"}}, "in the recipe: training.optim.warmup_steps and training.max_steps"),
        ({"train_batch_size": 4}, "train_batch_size is 4; it depends on the number of processes"),
        ({"amp": {"enabled": True}}, 'take "fp16" or "bf16"'),
        ({"bfloat16": {"enabled": True}}, 'it is spelled "bf16" here'),
        ({"activation_checkpointing": {}}, "model.activation_checkpointing"),
        ({"sparse_attention": {}}, "does nothing here; leave it out"),
        (
            {"zero_optimization": {"offload_optimizer": {"device": "cpu"}}},
            "offload_optimizer does nothing under stage 0",
        ),
        ({"zero_optimization": {"offload_optimizer": True}}, "offload_optimizer is true; expected an object"),
        ({"zero_optimization": {"offload_optimizer": None}}, "offload_optimizer is null; expected an object"),
        (
            {"zero_optimization": {"stage": 2, "offload_optimizer": {"device": "nvme"}}},
            'offload_optimizer.device is "nvme"; expected "cpu" or "none"',
        ),
        (
            {"zero_optimization": {"stage": 2, "offload_optimizer": {"device": "cpu", "nvme_path": "/tmp"}}},
            "offload_optimizer.nvme_path is .* it is of disks",
        ),
        (
            {"zero_optimization": {"stage": 2, "offload_param": {"device": "cpu"}}},
            "offload_param does nothing under stage 2; .* use stage 3",
        ),
        ({"zero_optimization": {"cpu_offload": True}}, "cpu_offload is true; write .*offload_optimizer"),
        ({"zero_optimization": {"stage": 4}}, r"zero_optimization.stage is 4; expected one of \[0, 1, 2, 3\]"),
        ({"zero_optimization": {"stage": 3, "stage3_max_live_parameters": -1}}, "expected a whole number, 0 or more"),
        ({"zero_optimization": {"stage": 3, "max_live_parameters": 1}}, "write stage3_max_live_parameters"),
        ({"zero_optimization": {"stage": 3, "stage3_gather_16bit_weights_on_model_save": True}}, "whole weights"),
        ({"zero_optimization": {"stage": "2"}}, 'zero_optimization.stage is "2"; write it without quotes: 2'),
        ({"zero_optimization": {"stage": 2, "stage3_max_live_parameters": 1}}, "does nothing under stage 2"),
        ({"zero_optimization": 1}, "zero_optimization is 1; expected an object"),
        ({"fp16": True}, "fp16 is true; expected an object"),
        (
            {"fp16": {"enabled": True}, "bf16": {"enabled": True}},
            "fp16.enabled and bf16.enabled are both true; keep one",
        ),
        ({"bf16": {"enabled": True}, "torch_autocast": {"enabled": True}}, "bf16.enabled and torch_autocast.enabled"),
        ({"torch_autocast": {"enabled": True, "dtype": "torch.float16"}}, 'dtype is float16, .* use "fp16"'),
        (
            {"fp16": {"enabled": True}, "zero_optimization": {"stage": 0}},
            "fp16 is enabled and .*stage is 0, .* stage 1",
        ),
        (
            {"bf16": {"enabled": True}, "zero_optimization": {"stage": 0}},
            "bf16 is enabled and .*stage is 0, .* waits for the device .* stage 1",
        ),
        ({"gradient_clip": 1.0}, "gradient_clip is no key of DeepSpeed's; did you mean 'gradient_clipping'"),
        ({"zero_optimisation": {"stage": 1}}, "did you mean 'zero_optimization'"),
        ({"zero_optimization": {"stages": 1}}, "zero_optimization.stages is no key .* did you mean 'stage'"),
        ({"fp16": {"enable": True}}, "fp16.enable is no key of DeepSpeed's; did you mean 'enabled'"),
        ({"_comment": "x"}, "_comment is no key of DeepSpeed's"),
    ],
)
def test_what_has_no_place_here_is_refused_with_what_has(tmp_path, more, message):
    assert re.search(message, refused(tmp_path, {**SOUND, **more}))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "line 1, column 1: the file is empty"),
        ("[]", "holds []; expected an object"),
        ("{}", "train_micro_batch_size_per_gpu is missing; set it"),
        ('{"fp16": ', "line 1, column 10: it ends in the middle"),
        ('{"a": 1, // micro\n "b": 2}', "line 1, column 10: a comment, which JSON has not; delete it"),
        ('{"a": 1}\n# end', "line 2, column 1: a comment"),
        ('{"a": /* b */ 1}', "line 1, column 7: a comment"),
        ('{"a": 1,\n}', "a comma with nothing behind it; delete it"),
        ('{"a": [1,]}', "a comma with nothing behind it; delete it"),
        ("{'a': 1}", "line 1, column 2: names and texts stand in double quotes"),
        ('{"a": True}', "line 1, column 7: True is true in JSON"),
        ('{"a": None}', "line 1, column 7: None is null in JSON"),
        ('{"gradient_clipping": NaN}', "NaN is no number of JSON"),
        ('{"a": 1, "b": {"c": 1, "c": 2}}', "c stands twice, as 1 and 2; keep one"),
        ("[" * 100_000, "it is nested without end"),
        ("training: {max_steps: 3}\n", "is a recipe; give it as --recipe"),
        ("task: captioning\n", "is a recipe for fine-tuning; give it to stoa finetune as --recipe"),
        ("out: x\ncells: {}\n", "is a plan; give it to stoa ablate"),
        (
            '{"weights_sha256": "", "abilities": {}}',
            "is the configuration of an exported model; give its folder as --run",
        ),
    ],
)
def test_what_is_not_json_or_another_file_is_named(tmp_path, text, message):
    assert message in refused(tmp_path, text)


def test_a_byte_order_mark_is_read_over(tmp_path):
    (tmp_path / "ds.json").write_text(json.dumps(SOUND), encoding="utf-8-sig")
    assert read_config(tmp_path / "ds.json") == SOUND
    (tmp_path / "ds.json").write_text(json.dumps(SOUND), encoding="utf-16")
    with pytest.raises(ValueError, match=r"ds.json: the file is UTF-16, not UTF-8; re-save"):
        read_config(tmp_path / "ds.json")


def test_a_file_that_is_not_there_names_the_nearest(tmp_path, monkeypatch):
    monkeypatch.chdir(ROOT)
    for wrong in ("ds_configs/pretrian.json", "pretrain", "ds_config/pretrain.json", "pretrain.jsn"):
        with pytest.raises(ValueError, match="does not exist; did you mean ds_configs/pretrain.json"):
            read_config(wrong)
    with pytest.raises(ValueError, match="is a folder; did you mean ds_configs/"):
        read_config("ds_configs")
    with pytest.raises(ValueError, match="does not exist; ds_configs/ holds the ready ones"):
        read_config(tmp_path / "zzzzzzzzzzzz.json")


def test_the_tables_know_every_key_that_deepspeed_knows():
    """So that a new version of it, with new keys, is looked at."""
    from deepspeed.runtime.precision_config import DeepSpeedBF16Config, DeepSpeedFP16Config
    from deepspeed.runtime.zero.config import DeepSpeedZeroConfig

    for ours, model in ((ZERO, DeepSpeedZeroConfig), (FP16, DeepSpeedFP16Config), (BF16, DeepSpeedBF16Config)):
        names = set(model.model_fields) | {field.alias for field in model.model_fields.values() if field.alias}
        assert set(ours) == names


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"comms_logger": {"enabled": "x"}}, "enabled is 'x': Input should be a valid boolean"),
        ({"tensorboard": {"colour": 1}}, "colour is 1: Extra inputs are not permitted"),
        ({"communication_data_type": "int9"}, "Invalid communication_data_type"),
    ],
)
def test_what_deepspeed_refuses_is_one_line(more, message):
    with pytest.raises(ValueError, match=message) as caught:
        require_valid({**SOUND, **more})
    assert "\n" not in str(caught.value)
    assert str(caught.value).startswith("--deepspeed_config: DeepSpeed refuses it: ")
