"""The only place that knows DeepSpeed."""

from __future__ import annotations

import json
import logging
import os
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import nn

# The first rank may make a data set while the others wait.
START_TIMEOUT = timedelta(minutes=30)


def init_distributed() -> torch.device:
    """Join the process group the launcher describes, or make one of a single process.

    Returns:
        this process's device.

    Raises:
        ValueError: srun started several processes without telling them of each other.
    """
    tasks = os.environ.get("SLURM_STEP_NUM_TASKS", "1")
    if tasks != "1" and "WORLD_SIZE" not in os.environ:
        raise ValueError(
            f"srun started {tasks} processes that do not know of each other (WORLD_SIZE is not set); "
            "use cluster/slurm.sbatch, or srun one cluster/node.sh a node"
        )
    for name, value in {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1"}.items():
        os.environ.setdefault(name, value)
    os.environ.setdefault("MASTER_ADDR", "127.0.0.1")
    os.environ.setdefault("MASTER_PORT", "29500" if os.environ["WORLD_SIZE"] != "1" else "0")
    has_cuda = torch.cuda.is_available()
    os.environ.setdefault("DS_ACCELERATOR", "cuda" if has_cuda else "cpu")
    import deepspeed
    from deepspeed.utils import logger

    logger.setLevel(logging.WARNING)
    device = torch.device("cuda", int(os.environ["LOCAL_RANK"])) if has_cuda else torch.device("cpu")
    if has_cuda:
        torch.cuda.set_device(device)
    if not dist.is_initialized():
        deepspeed.init_distributed(
            dist_backend="nccl" if has_cuda else "gloo", auto_mpi_discovery=False, verbose=False, timeout=START_TIMEOUT
        )
    return device


def read_config(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Read a DeepSpeed JSON.

    Raises:
        ValueError: missing, not JSON, without ``train_micro_batch_size_per_gpu``, ZeRO 3, or fp16 without ZeRO.
    """
    path = Path(path)
    if not path.is_file():
        raise ValueError(f"--deepspeed_config {path} does not exist; ds_configs/ holds ready ones")
    try:
        config = json.loads(path.read_text())
    except json.JSONDecodeError as error:
        raise ValueError(f"--deepspeed_config {path}: not valid JSON ({error})") from None
    if not isinstance(config, dict) or not isinstance(config.get("train_micro_batch_size_per_gpu"), int):
        raise ValueError(
            f"--deepspeed_config {path}: train_micro_batch_size_per_gpu is missing; set it and leave train_batch_size "
            "out, so that the same file serves any number of processes"
        )
    if "train_batch_size" in config:
        raise ValueError(
            f"--deepspeed_config {path}: train_batch_size is {config['train_batch_size']}, which depends on the number "
            "of processes; leave it out and give gradient_accumulation_steps"
        )
    if _autocast(config.get("torch_autocast", {})) == "float16":
        raise ValueError(
            f"--deepspeed_config {path}: torch_autocast.dtype is float16, with which DeepSpeed never lowers the loss "
            'scale again after an overflow; use "fp16": {"enabled": true}, or bfloat16'
        )
    if config.get("fp16", {}).get("enabled") and not config.get("zero_optimization", {}).get("stage", 0):
        raise ValueError(
            f"--deepspeed_config {path}: fp16 is enabled and zero_optimization.stage is 0, with which DeepSpeed "
            "divides gradients by a loss scale that it never multiplied the loss by; use stage 1 or 2"
        )
    if config.get("zero_optimization", {}).get("stage", 0) > 2:
        raise ValueError(
            f"--deepspeed_config {path}: zero_optimization.stage 3 splits the weights themselves, which this model is "
            "too small to need and its checkpoints do not support; use stage 0, 1 or 2"
        )
    return config


def layout(config: dict[str, Any]) -> dict[str, Any]:
    """What of a DeepSpeed JSON the saved states depend on."""
    return {
        "fp16": bool(config.get("fp16", {}).get("enabled")),
        "bf16": bool(config.get("bf16", {}).get("enabled")),
        "ZeRO stage": config.get("zero_optimization", {}).get("stage", 0),
        "gradient_accumulation_steps": config.get("gradient_accumulation_steps", 1),
        "torch_autocast": _autocast(config.get("torch_autocast", {})),
    }


def _autocast(config: dict[str, Any]) -> str | None:
    return str(config.get("dtype", "bfloat16")).removeprefix("torch.") if config.get("enabled") else None


def fit_precision(config: dict[str, Any], device: torch.device) -> tuple[dict[str, Any], str | None]:
    """Turn off fp16 on a CPU, before DeepSpeed refuses it.

    Returns:
        (config to use, what was changed or None)

    Raises:
        ValueError: bf16 on a GPU that only emulates it.
    """
    wants_bf16 = config.get("bf16", {}).get("enabled") or _autocast(config.get("torch_autocast", {}))
    if device.type == "cuda" and wants_bf16 and not torch.cuda.is_bf16_supported(including_emulation=False):
        raise ValueError(
            f"the DeepSpeed config asks for bf16, which {torch.cuda.get_device_name(device)} has not and emulates many "
            'times slower; take "fp16": {"enabled": true} from ds_configs/pretrain.json in its place'
        )
    if device.type == "cuda" or not config.get("fp16", {}).get("enabled"):
        return config, None
    changed = {**config, "fp16": {"enabled": False}}
    return changed, f"fp16 needs a GPU and this machine has none: training in fp32 on {device.type}"


def choose_attention(device: torch.device) -> None:
    """Of torch's attentions, those that serve the device."""
    if device.type == "cuda":
        # cuDNN's, torch's first choice on H100 and H200, gives NaN gradients for some lengths (pytorch#196678).
        torch.backends.cuda.enable_cudnn_sdp(False)


def initialize(objective: nn.Module, optimizer: torch.optim.Optimizer, config: dict[str, Any]) -> Any:
    """A DeepSpeed engine around the objective."""
    import deepspeed

    # With an optimiser that is not DeepSpeed's own, ZeRO asks for this consent; AdamW is elementwise, so
    # partitioning it is exact.
    config = {"zero_allow_untested_optimizer": True, **config}
    engine, _, _, _ = deepspeed.initialize(model=objective, optimizer=optimizer, config=config)
    return engine


def accumulation_steps(engine: Any) -> int:
    return int(engine.gradient_accumulation_steps())


def grad_norm(engine: Any, device: torch.device) -> torch.Tensor:
    """Global gradient norm of the last optimiser step, before clipping: (), fp32, on the device, without a wait for it.

    Infinite where it is not finite and in a step that was skipped; NaN where DeepSpeed does not tell it (ZeRO 0, fp32).
    """
    norm = engine.get_global_grad_norm()
    if norm is None:
        return torch.full((), torch.nan, device=device)
    told = norm.to(device, torch.float32) if torch.is_tensor(norm) else torch.full((), float(norm), device=device)
    return told.where(told.isfinite(), torch.inf)


def gradient_clipping(engine: Any) -> float:
    """The norm that gradients are clipped to; 0 where they are not."""
    return float(engine.gradient_clipping())


def zero_stage(engine: Any) -> int:
    return int(engine.zero_optimization_stage())


def uses_fp16(engine: Any) -> bool:
    return bool(engine.fp16_enabled())


def skipped_steps(engine: Any) -> int:
    """Steps without an update because gradients were not finite, in all of the run."""
    return int(engine.skipped_steps)


def save_states(engine: Any, folder: Path, tag: str) -> None:
    """All ranks: write model, optimiser and scaler states to ``folder/tag``."""
    engine.save_checkpoint(str(folder), tag=tag, save_latest=False, exclude_frozen_parameters=False)


def load_states(engine: Any, folder: Path, tag: str) -> None:
    """All ranks: the reverse of :func:`save_states`.

    DeepSpeed's files are pickles: call this only for files whose hashes a manifest of ours vouches for.
    They also hold the hyper-parameters of the time; this run's stay in force.

    Raises:
        ValueError: there is nothing to load.
    """
    names = ("peak_lr", "weight_decay", "betas", "eps")
    settings = [{name: group[name] for name in names} for group in engine.optimizer.param_groups]
    path, _ = engine.load_checkpoint(str(folder), tag=tag, load_lr_scheduler_states=False)
    if path is None:
        raise ValueError(f"checkpoint {folder / tag} holds no DeepSpeed states; remove it to use the one before")
    for group, setting in zip(engine.optimizer.param_groups, settings, strict=True):
        group.update(setting)
    if hasattr(engine.optimizer, "clip_grad"):
        engine.optimizer.clip_grad = engine.gradient_clipping()
