"""The only place that knows DeepSpeed, but for what it does to weights and states: :mod:`stoa.training.split_weights`,
:mod:`stoa.training.pieces`."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
import torch.distributed as dist
from torch import nn

from stoa.objectives.total import TrainingObjective
from stoa.processor import multiplies_bf16
from stoa.training.deepspeed_config import autocast
from stoa.training.processes import COLLECTIVE_LIMIT, meet, place
from stoa.training.split_weights import SplitWeights, gathered


def init_distributed(alike: Mapping[str, str] | None = None) -> torch.device:
    """Join the process group the launcher describes, or make one of a single process.

    Args:
        alike: what has to be the same for all processes, as versions by name.

    Returns:
        this process's device.

    Raises:
        ValueError: the launcher's variables are wrong, or the processes do not find each other or are not alike.
    """
    here = place(os.environ)
    os.environ.update(RANK=str(here.rank), LOCAL_RANK=str(here.local_rank), WORLD_SIZE=str(here.world_size))
    os.environ.update(MASTER_ADDR=here.address, MASTER_PORT=str(here.port))
    os.environ["LOCAL_WORLD_SIZE"] = str(here.local_world_size)
    has_cuda = torch.cuda.is_available()
    os.environ.setdefault("DS_ACCELERATOR", "cuda" if has_cuda else "cpu")
    import deepspeed
    from deepspeed.utils import logger

    logger.setLevel(logging.WARNING)
    device = torch.device("cuda", here.local_rank) if has_cuda else torch.device("cpu")
    if has_cuda:
        torch.cuda.set_device(device)
    if not dist.is_initialized():
        backend = "nccl" if has_cuda else "gloo"
        store = meet(here, alike)
        try:
            dist.init_process_group(
                backend, store=store, rank=here.rank, world_size=here.world_size, timeout=COLLECTIVE_LIMIT
            )
        except RuntimeError as error:  # gloo's, of the network
            raise ValueError(
                f"the processes cannot talk to each other ({' '.join(str(error).split())}); a single one needs the "
                "loopback interface ('ip link set lo up'), several a network (GLOO_SOCKET_IFNAME names one)"
            ) from None
        try:
            deepspeed.init_distributed(
                dist_backend=backend, auto_mpi_discovery=False, verbose=False, timeout=COLLECTIVE_LIMIT
            )
        except RuntimeError as error:  # without a GPU it compiles an operator of its own
            raise ValueError(
                f"DeepSpeed cannot make its communication operator for CPUs ({' '.join(str(error).split())}); install "
                "ninja and a C++ compiler, or set TORCH_EXTENSIONS_DIR to where another machine has compiled it"
            ) from None
    return device


def fit_precision(config: dict[str, Any], device: torch.device) -> tuple[dict[str, Any], str | None]:
    """Turn off fp16 on a CPU, before DeepSpeed refuses it.

    Returns:
        (config to use, what there is to say of it or None)

    Raises:
        ValueError: bf16 on a GPU that only emulates it.
    """
    wants_bf16 = config.get("bf16", {}).get("enabled") or autocast(config)
    if device.type == "cuda" and wants_bf16 and not torch.cuda.is_bf16_supported(including_emulation=False):
        raise ValueError(
            f"the DeepSpeed config asks for bf16, which {torch.cuda.get_device_name(device)} has not and emulates many "
            'times slower; take "fp16": {"enabled": true} from ds_configs/pretrain.json in its place'
        )
    if device.type == "cpu" and wants_bf16 and not multiplies_bf16():
        key = "bf16" if config.get("bf16", {}).get("enabled") else "torch_autocast"
        return config, (
            f"the DeepSpeed config asks for bf16, for which this processor has no instructions: its products take many "
            f"times as long as those of fp32; take {key} out of the config"
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


def require_valid(config: dict[str, Any]) -> None:
    """What only DeepSpeed can tell of its configuration, before anything is built.

    Raises:
        ValueError: it refuses it.
    """
    from deepspeed.runtime.config import DeepSpeedConfig

    with _translated(TypeError, KeyError, AttributeError):
        DeepSpeedConfig(_with_our_optimizer(config))


@contextmanager
def _translated(*more: type[Exception]) -> Iterator[None]:
    from deepspeed.runtime.config import DeepSpeedConfigError
    from deepspeed.runtime.zero.utils import ZeRORuntimeException

    try:
        yield
    except (AssertionError, ValueError, DeepSpeedConfigError, ZeRORuntimeException, *more) as error:
        text = " ".join(str(error).split()) or type(error).__name__
        if hasattr(error, "errors"):  # pydantic's
            text = "; ".join(f"{'.'.join(map(str, e['loc']))} is {e['input']!r}: {e['msg']}" for e in error.errors())
        raise ValueError(f"--deepspeed_config: DeepSpeed refuses it: {text}") from error


def _with_our_optimizer(config: dict[str, Any]) -> dict[str, Any]:
    # With an optimiser that is not DeepSpeed's own, ZeRO asks for this consent, and offloading it to the CPU for the
    # other; AdamW is elementwise, so partitioning it is exact.
    return {"zero_allow_untested_optimizer": True, "zero_force_ds_cpu_optimizer": False, **config}


def initialize(objective: TrainingObjective, optimizer: torch.optim.Optimizer, config: dict[str, Any]) -> Any:
    """A DeepSpeed engine around the objective.

    Raises:
        ValueError: DeepSpeed refuses its configuration.
    """
    import deepspeed

    with _translated():
        engine, _, _, _ = deepspeed.initialize(model=objective, optimizer=optimizer, config=_with_our_optimizer(config))
    if zero_stage(engine) == 3 and objective.chunk_clips is not None:
        objective.stand_in = SplitWeights(objective).stand_in
    zero = engine.optimizer
    if zero_stage(engine) == 0:
        _look_at_gradients_first(engine)
    if zero_stage(engine) in (1, 2) and not zero.cpu_offload:
        _look_at_gradients_once(zero)
    return engine


def _look_at_gradients_first(engine: Any) -> None:
    """Without ZeRO nobody looks at gradients before AdamW takes them. A fused one leaves a step out on the device,
    where it is told that something in them is not finite."""

    def look(optimizer: torch.optim.Optimizer, *_: Any) -> None:
        weights = [p for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
        norm = torch.nn.utils.get_total_norm([weight.grad for weight in weights])
        if gradient_clipping(engine):
            torch.nn.utils.clip_grads_with_norm_(weights, gradient_clipping(engine), norm)
        optimizer.found_inf = (~norm.isfinite()).float()  # type: ignore[attr-defined]
        engine._global_grad_norm = norm

    engine.clip_fp32_gradients = lambda: None
    engine.optimizer.register_step_pre_hook(look)


def whole_or_nothing(loss: torch.Tensor) -> torch.Tensor:
    """A loss whose gradients are finite on no rank where it is not finite on one."""
    return loss * torch.where(loss.detach().isfinite(), 1.0, torch.nan)


def _look_at_gradients_once(zero: Any) -> None:
    """ZeRO looks at each gradient for what is not finite, by a dozen operations, and then takes the norm of each, by
    three. The norm of all of them, in a few operations, tells both: ZeRO leaves a step out where it is not finite."""

    def scaled_global_norm() -> torch.Tensor:
        grads = [grad for group in zero.averaged_gradients.values() for grad in group]
        squares = torch.zeros((), dtype=torch.float32, device=zero.device)
        if grads:  # of a small model a rank may hold none
            norms = torch._foreach_norm(grads, 2.0, dtype=torch.float32)  # squares of half precision would overflow
            squares = torch.linalg.vector_norm(torch.stack(norms)).square()
        dist.all_reduce(squares)
        return squares.sqrt()

    zero.scaled_global_norm = scaled_global_norm
    zero.check_overflow = lambda partition_gradients=True: None


def accumulation_steps(engine: Any) -> int:
    return int(engine.gradient_accumulation_steps())


def grad_norm(engine: Any, device: torch.device) -> torch.Tensor:
    """Global gradient norm of the last optimiser step, before clipping: (), fp32, on the device, without a wait for it.

    Infinite where it is not finite, and in a step that was skipped.
    """
    if getattr(engine.optimizer, "overflow", False):  # ZeRO 3 then tells the norm of the step before
        return torch.full((), torch.inf, device=device)
    norm = engine.get_global_grad_norm()
    told = norm.to(device, torch.float32) if torch.is_tensor(norm) else torch.full((), float(norm), device=device)
    return told.where(told.isfinite() & (told >= 0), torch.inf)  # DeepSpeed says -1 for what is not finite


def elements(parameter: torch.Tensor) -> int:
    """Of a parameter, of which ZeRO 3 may have left this rank a part."""
    return int(getattr(parameter, "ds_numel", parameter.numel()))


def whole_weights(model: nn.Module, *, copy: bool = False) -> dict[str, torch.Tensor]:
    """All ranks: the state of a model, on the CPU; on all ranks but the first it is empty. What ZeRO 3 has split is
    gathered, one module at a time; of weights in half precision it is the optimiser's own, in fp32. A ``copy`` does not
    change with the model."""
    from deepspeed.utils import safe_get_full_fp32_param

    weights: dict[str, torch.Tensor] = {}
    for name, module in model.named_modules():
        parameters = dict(module.named_parameters(recurse=False))
        prefix = f"{name}." if name else ""
        with gathered(list(parameters.values())) as split:
            if dist.get_rank() == 0:
                state: dict[str, torch.Tensor] = {}
                module._save_to_state_dict(state, prefix, keep_vars=False)
                weights |= {key: value.to("cpu", copy=split or copy).contiguous() for key, value in state.items()}
        for key, parameter in parameters.items():
            if parameter.requires_grad and parameter.dtype != torch.float32:
                own = safe_get_full_fp32_param(parameter)
                if dist.get_rank() == 0:
                    weights[prefix + key] = own.detach().reshape(weights[prefix + key].shape).cpu()
    return weights


def gradient_clipping(engine: Any) -> float:
    """The norm that gradients are clipped to; 0 where they are not."""
    return float(engine.gradient_clipping())


def zero_stage(engine: Any) -> int:
    return int(engine.zero_optimization_stage())


def uses_fp16(engine: Any) -> bool:
    return bool(engine.fp16_enabled())


def precision(engine: Any) -> str:
    """Of the products: ``fp16``, ``bf16`` or ``fp32``."""
    if uses_fp16(engine):
        return "fp16"
    return "bf16" if engine.bfloat16_enabled() or engine.torch_autocast_enabled() else "fp32"


_OWN_WEIGHTS = ("single_partition_of_fp32_groups", "fp32_partitioned_groups_flat")  # of ZeRO 1 and 2, of ZeRO 3


def optimizer_tensors(engine: Any) -> list[torch.Tensor]:
    """What the optimiser holds beside the weights of the model: those of its own, and its moments."""
    zero = engine.optimizer
    own = [x for name in _OWN_WEIGHTS for x in getattr(zero, name, ())]
    return own + [x for state in zero.state.values() for x in state.values() if torch.is_tensor(x)]


def skipped_steps(engine: Any) -> int:
    """Steps without an update because gradients were not finite, in all of the run."""
    return int(engine.skipped_steps)


COUNTS = ("global_steps", "global_samples", "skipped_steps", "micro_steps")
"""That DeepSpeed keeps of a training."""
_LOSS_SCALE = ("cur_scale", "cur_iter", "last_overflow_iter", "cur_hysteresis")


def counts(engine: Any) -> dict[str, Any]:
    """What DeepSpeed counts, and the state of the loss scaler of fp16: numbers by name."""
    scaler = vars(getattr(engine.optimizer, "loss_scaler", object))
    scale = {name: scaler[name] for name in _LOSS_SCALE if name in scaler} if uses_fp16(engine) else {}
    return {name: int(getattr(engine, name)) for name in COUNTS} | {"loss_scale": scale}


def set_counts(engine: Any, values: dict[str, Any]) -> None:
    """The reverse of :func:`counts`; a scaler that the values know nothing of keeps its state."""
    for name in COUNTS:
        setattr(engine, name, int(values[name]))
    if uses_fp16(engine):
        for name, value in values["loss_scale"].items():
            if name in _LOSS_SCALE:
                setattr(engine.optimizer.loss_scaler, name, value)


def set_whole(values: dict[str, tuple[torch.Tensor, torch.Tensor]]) -> None:
    """All ranks: give tensors of a model, by name, other values; what ZeRO 3 has split is gathered for it."""
    for mine, value in values.values():
        with torch.no_grad(), gathered([mine], write=True):
            mine.copy_(value)
