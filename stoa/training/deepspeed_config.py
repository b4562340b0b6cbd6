"""DeepSpeed's JSON, read strictly: what DeepSpeed ignores or fails at later is named before anything is started."""

from __future__ import annotations

import difflib
import json
import math
import os
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from stoa.arguments.given import text_of
from stoa.arguments.kinds import kind_of
from stoa.shapes import NUMBER
from stoa.shipped import found


class Value(NamedTuple):
    """What a key takes: a noun for messages, and a check that gives the value to use or raises ``ValueError``."""

    noun: str
    read: Callable[[Any], Any]


def _number(value: Any) -> float:
    if not NUMBER.fits(value):
        raise ValueError
    return value


def _within(value: float, least: float, most: float) -> float:
    if not least <= value <= most:
        raise ValueError
    return value


def whole(least: int, most: int | None = None) -> Value:
    def read(value: Any) -> int:
        if not float(_number(value)).is_integer():  # 5e8 is one
            raise ValueError
        return int(_within(value, least, math.inf if most is None else most))

    return Value(f"a whole number, {least} or more" if most is None else f"one of {[*range(least, most + 1)]}", read)


def number(least: float) -> Value:
    return Value(f"a number, {least:g} or more", lambda value: _within(_number(value), least, math.inf))


def one_of(*choices: Any) -> Value:
    def read(value: Any) -> Any:
        if not any(type(value) is type(choice) and value == choice for choice in choices):
            raise ValueError
        return value

    return Value(" or ".join(json.dumps(choice) for choice in choices), read)


def _names(value: Any) -> Any:
    if not isinstance(value, list) or not all(isinstance(name, str) for name in value):
        raise ValueError
    return value


FLAG = one_of(True, False)
DTYPE = one_of("fp32", "float32", "fp16", "float16", "half", "bf16", "bfloat16")
AUTOCAST = one_of(*(f"{prefix}{name}" for prefix in ("", "torch.") for name in ("bfloat16", "float16")))
NAMES = Value("a list of names", _names)

Block = dict[str, Any]
"""The keys of a block: a :class:`Value`, another block, a text that says why the key is refused, or ``ANY``."""
ANY = None
"""A block that is DeepSpeed's to check."""

_OLD_OFFLOAD = 'write "offload_optimizer": {"device": "cpu"}, or "offload_param" under stage 3'
_NVME = "it is of disks (nvme), which are not supported here"
_NO_USE = "it does nothing here"
_BY_RECIPE = "in the recipe"
_LOOKED_AT = "every step looks whether its gradients are finite; leave it out"

OFFLOAD: Block = {
    "device": one_of("cpu", "none"),
    "pin_memory": FLAG,
    **dict.fromkeys(("nvme_path", "buffer_count", "buffer_size", "max_in_cpu", "fast_init"), _NVME),
    **dict.fromkeys(("pipeline", "pipeline_read", "pipeline_write"), _NVME),
    **dict.fromkeys(("ratio", "super_offload", "cpuadam_cores_perc"), "it needs DeepSpeed's CPU optimiser"),
}
STAGE_3: Block = {
    "offload_param": OFFLOAD,
    "sub_group_size": whole(1),
    **dict.fromkeys(
        (
            *("stage3_prefetch_bucket_size", "stage3_param_persistence_threshold", "stage3_max_live_parameters"),
            *("stage3_model_persistence_threshold", "stage3_max_reuse_distance"),
            "stage3_module_granularity_threshold",
        ),
        whole(0),
    ),
    **dict.fromkeys(("stage3_allgather_sequential", "stage3_use_all_reduce_for_fetch_params"), FLAG),
}
"""Keys that do something under stage 3 alone."""
ZERO: Block = {
    "stage": whole(0, 3),
    **dict.fromkeys(
        ("contiguous_gradients", "reduce_scatter", "use_multi_rank_bucket_allreduce", "allgather_partitions"), FLAG
    ),
    **dict.fromkeys(("overlap_comm", "load_from_fp32_weights", "ignore_unused_parameters"), FLAG),
    **dict.fromkeys(("round_robin_gradients", "parameter_alignment"), FLAG),
    "compute_grad_norm": _LOOKED_AT,
    **dict.fromkeys(("reduce_bucket_size", "allgather_bucket_size"), whole(1)),
    "offload_optimizer": OFFLOAD,
    **STAGE_3,
    **dict.fromkeys(("cpu_offload", "cpu_offload_param", "cpu_offload_use_pin_memory"), _OLD_OFFLOAD),
    "zenflow": "it needs DeepSpeed's CPU optimiser",
    "elastic_checkpoint": "checkpoints go to any number of processes as they are",
    "legacy_stage1": "DeepSpeed has no other stage 1 any more",
    **dict.fromkeys(
        (
            *("stage3_gather_16bit_weights_on_model_save", "gather_16bit_weights_on_model_save"),
            "stage3_gather_fp16_weights_on_model_save",
        ),
        "checkpoints hold the whole weights always",
    ),
    **{
        name: f"write stage3_{name}"
        for name in (
            *("prefetch_bucket_size", "param_persistence_threshold", "model_persistence_threshold"),
            *("max_live_parameters", "max_reuse_distance", "module_granularity_threshold", "allgather_sequential"),
            "use_all_reduce_for_fetch_params",
        )
    },
    **dict.fromkeys(
        (
            *("zero_hpz_partition_size", "zero_quantized_weights", "zero_quantized_nontrainable_weights"),
            *("zero_quantized_gradients", "memory_efficient_linear", "pipeline_loading_checkpoint"),
            *("override_module_apply", "log_trace_cache_warnings", "enable_sanity_checks", "leaf_module"),
            "save_muon_momentum_buffer_in_memory",
        ),
        "it is not tried here; leave it out",
    ),
}
FP16: Block = {
    **dict.fromkeys(("enabled", "consecutive_hysteresis"), FLAG),
    "auto_cast": "the engine casts nothing here; leave it to enabled",
    "loss_scale": number(0),
    "initial_scale_power": whole(0, None),
    **dict.fromkeys(("loss_scale_window", "hysteresis", "min_loss_scale"), whole(1)),
    "fp16_master_weights_and_grads": "it needs DeepSpeed's CPU optimiser, which is not used here",
}
BF16: Block = {
    **dict.fromkeys(("enabled", "immediate_grad_update"), FLAG),
    "check_grad_overflow": _LOOKED_AT,
    **dict.fromkeys(
        ("bf16_master_weights_and_grads", "bf16_optimizer_states"),
        "master weights stay in fp32, which checkpoints and resumed runs rely on",
    ),
}
TOP: Block = {
    "train_micro_batch_size_per_gpu": whole(1),
    "gradient_accumulation_steps": whole(1),
    "gradient_clipping": number(0),
    "zero_optimization": ZERO,
    "fp16": FP16,
    "bf16": BF16,
    "torch_autocast": {"enabled": FLAG, "dtype": AUTOCAST, "lower_precision_safe_modules": NAMES},
    "communication_data_type": DTYPE,
    "data_types": {"grad_accum_dtype": DTYPE},
    "gradient_predivide_factor": number(1e-6),
    "steps_per_print": whole(1),
    **dict.fromkeys(("prescale_gradients", "wall_clock_breakdown", "memory_breakdown", "dump_state"), FLAG),
    **dict.fromkeys(("zero_allow_untested_optimizer", "disable_allgather"), FLAG),
    **dict.fromkeys(("comms_logger", "flops_profiler", "timers", "aio"), ANY),
    **dict.fromkeys(("tensorboard", "wandb", "csv_monitor", "comet"), ANY),
    "train_batch_size": (
        "it depends on the number of processes; leave it out and give train_micro_batch_size_per_gpu and "
        "gradient_accumulation_steps"
    ),
    "optimizer": (
        f"AdamW is set {_BY_RECIPE}: training.optim.clip_lr, new_lr, weight_decay, beta1, beta2 and eps; leave it out"
    ),
    "scheduler": f"the schedule is set {_BY_RECIPE}: training.optim.warmup_steps and training.max_steps; leave it out",
    "bfloat16": 'it is spelled "bf16" here; rename it',
    "amp": 'NVIDIA\'s apex is gone from DeepSpeed; take "fp16" or "bf16"',
    "activation_checkpointing": f"it is set {_BY_RECIPE}: model.activation_checkpointing; leave it out",
    "checkpoint": "checkpoints are stoa's own; leave it out",
    "dataloader_drop_last": "batches are stoa's own; leave it out",
    "zero_force_ds_cpu_optimizer": "the optimiser is torch's AdamW, offloaded or not; leave it out",
    **dict.fromkeys(
        (
            *("managed_gradient_accumulation", "gradient_allreduce_op", "seq_parallel_communication_data_type"),
            *("disable_python_gc", "autotuning", "hybrid_engine", "pipeline", "data_efficiency", "log_level"),
            *("weight_quantization", "compile", "tensor_parallel", "expert_parallel", "datastates", "elasticity"),
            *("sparse_gradients", "sparse_attention", "compression_training", "quantize_training", "eigenvalue"),
            *("graph_harvesting", "curriculum_learning", "progressive_layer_drop", "nebula", "vocabulary_size"),
            "use_data_before_expert_parallelism",
        ),
        f"{_NO_USE}; leave it out",
    ),
}


def read_config(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Read a DeepSpeed JSON.

    Raises:
        ValueError: it is missing, not JSON, something else, without ``train_micro_batch_size_per_gpu``, or a key or a
            value of it is wrong or does nothing here. The message names file, key, value and what to write.
    """
    path = Path(found(os.fspath(path)))
    name = f"--deepspeed_config {path}"
    config = _parse(path, name)
    if not isinstance(config, dict):
        raise ValueError(f"{name} holds {_shown(config)}; expected an object with train_micro_batch_size_per_gpu")
    if (kind := kind_of(config)) is not None and kind.option != "--deepspeed_config":
        raise ValueError(f"{name} is {kind.what}; {kind.where}. ds_configs/ holds DeepSpeed's")
    config = _read_block(config, TOP, name, "")
    if "train_micro_batch_size_per_gpu" not in config:
        raise ValueError(
            f"{name}: train_micro_batch_size_per_gpu is missing; set it and leave train_batch_size out, so that the "
            "same file serves any number of processes"
        )
    on = [key for key in ("fp16", "bf16", "torch_autocast") if config.get(key, {}).get("enabled")]
    if len(on) > 1:
        raise ValueError(f"{name}: {on[0]}.enabled and {on[1]}.enabled are both true; keep one")
    _require_stage(config, name)
    if autocast(config) == "float16":
        raise ValueError(
            f"{name}: torch_autocast.dtype is float16, with which DeepSpeed never lowers the loss scale again after an "
            'overflow; use "fp16": {"enabled": true}, or bfloat16'
        )
    if config.get("fp16", {}).get("enabled") and not zero_stage(config):
        raise ValueError(
            f"{name}: fp16 is enabled and zero_optimization.stage is 0, with which DeepSpeed divides gradients by a "
            "loss scale that it never multiplied the loss by; use stage 1, 2 or 3"
        )
    if config.get("bf16", {}).get("enabled") and not zero_stage(config):
        raise ValueError(
            f"{name}: bf16 is enabled and zero_optimization.stage is 0, with which DeepSpeed waits for the device once "
            "for each weight of a step; use stage 1, 2 or 3, which train alike"
        )
    return config


def zero_stage(config: dict[str, Any]) -> int:
    return int(config.get("zero_optimization", {}).get("stage", 0))


def _require_stage(config: dict[str, Any], name: str) -> None:
    zero, stage = config.get("zero_optimization", {}), zero_stage(config)
    for keys, least in ((STAGE_3, 3), (("offload_optimizer",), 1)):
        for key in zero:
            if key in keys and stage < least:
                raise ValueError(
                    f"{name}: zero_optimization.{key} does nothing under stage {stage}; leave it out, or use stage "
                    f"{' or '.join(map(str, range(least, 4)))}"
                )


def layout(config: dict[str, Any]) -> dict[str, Any]:
    """What of a DeepSpeed JSON the saved states depend on."""
    return {
        "fp16": bool(config.get("fp16", {}).get("enabled")),
        "bf16": bool(config.get("bf16", {}).get("enabled")),
        "ZeRO stage": zero_stage(config),
        "gradient_accumulation_steps": config.get("gradient_accumulation_steps", 1),
        "torch_autocast": autocast(config),
    }


def autocast(config: dict[str, Any]) -> str | None:
    """The type of ``torch_autocast``, where it is on."""
    block = config.get("torch_autocast", {})
    return str(block.get("dtype", "bfloat16")).removeprefix("torch.") if block.get("enabled") else None


def _read_block(values: dict[str, Any], known: Block, name: str, prefix: str) -> dict[str, Any]:
    read = {}
    for key, value in values.items():
        dotted = f"{prefix}{key}"
        if key not in known:
            raise ValueError(f"{name}: {_cut(dotted)} is no key of DeepSpeed's{_nearest(key, known)}")
        rule = known[key]
        if isinstance(rule, str):
            raise ValueError(f"{name}: {dotted} is {_shown(value)}; {rule}")
        if isinstance(rule, dict) or rule is ANY:
            if not isinstance(value, dict):
                raise ValueError(f"{name}: {dotted} is {_shown(value)}; expected an object, {{...}}")
            read[key] = value if rule is ANY else _read_block(value, rule, name, f"{dotted}.")
            continue
        try:
            read[key] = rule.read(value)
        except ValueError:
            raise ValueError(f"{name}: {dotted} is {_shown(value)}; {_advice(dotted, value, rule)}") from None
    return read


def _advice(key: str, value: Any, rule: Value) -> str:
    if value == "auto":
        return f"this is Hugging Face's word for what its Trainer fills in; write {rule.noun}, or leave it out"
    if isinstance(value, str):
        try:
            return f"write it without quotes: {json.dumps(rule.read(json.loads(value)))}"
        except ValueError:
            pass
    return f"expected {rule.noun}"


def _nearest(key: str, known: Block) -> str:
    usable = [name for name, rule in known.items() if not isinstance(rule, str)]
    close = difflib.get_close_matches(key, usable, n=1) or difflib.get_close_matches(key, known, n=1)
    return f"; did you mean {close[0]!r}?" if close else f"; the keys here are {', '.join(usable)}"


def _shown(value: Any) -> str:
    return _cut(json.dumps(value))


def _cut(text: str) -> str:
    return text if len(text) <= 60 else f"{text[:56]} ..."


def _parse(path: Path, name: str) -> Any:
    text = text_of(path, name, (".json",), "ds_configs")
    try:
        return json.loads(text, object_pairs_hook=_without_repeats, parse_constant=_no_constant)
    except json.JSONDecodeError as error:
        if (kind := kind_of(text)) is not None:
            raise ValueError(f"{name} is {kind.what}; {kind.where}. ds_configs/ holds DeepSpeed's") from None
        why = _why_not_json(text, error)
        raise ValueError(f"{name}: not valid JSON in line {error.lineno}, column {error.colno}: {why}") from None
    except RecursionError:
        raise ValueError(f"{name}: not valid JSON: it is nested without end") from None
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from None


def _without_repeats(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for key, value in pairs:
        if key in values:
            raise ValueError(f"{key} stands twice, as {_shown(values[key])} and {_shown(value)}; keep one")
        values[key] = value
    return values


def _no_constant(name: str) -> float:
    raise ValueError(f"{name} is no number of JSON; write one")


def _why_not_json(text: str, error: json.JSONDecodeError) -> str:
    before, after = text[: error.pos].rstrip(), text[error.pos :].lstrip()
    if not text.strip():
        return "the file is empty"
    if after.startswith(("//", "/*", "#")):
        return "a comment, which JSON has not; delete it"
    if after[:1] in ("}", "]") and before.endswith(",") or before.endswith(",") and re.match(r"\s*[}\]]", after):
        return "a comma with nothing behind it; delete it"
    if after.startswith("'"):
        return 'names and texts stand in double quotes, "..."'
    if word := re.match(r"True|False|None", after):
        return f"{word[0]} is {json.dumps({'True': True, 'False': False, 'None': None}[word[0]])} in JSON"
    if not after:
        return "it ends in the middle"
    return error.msg[:1].lower() + error.msg[1:]
