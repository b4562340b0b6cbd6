"""A GPU that is none: tensors that say they are on ``cuda`` and hold their numbers on the CPU, so that what runs on a
GPU runs here, with its real results, and raises where CUDA would, at an operator given tensors of both."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any
from unittest.mock import patch

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

aten = torch.ops.aten
GPU = torch.device("cuda", 0)
# Of these, CUDA takes some arguments from the host.
_MOVES = {aten._to_copy.default, aten.copy_.default}
_INDEXES = {aten.index.Tensor: 1, aten.index_put_.default: 1, aten.index_put.default: 1}


class GpuTensor(torch.Tensor):
    """``held`` is the same on the CPU."""

    held: torch.Tensor

    @staticmethod
    def __new__(cls, real: torch.Tensor) -> GpuTensor:
        shape_alone = torch.empty_strided(real.shape, real.stride(), dtype=real.dtype, device="meta")
        tensor = torch.Tensor._make_subclass(cls, shape_alone, False, dispatch_device=True, device_for_backend_keys=GPU)
        tensor.held = real
        return tensor

    def __repr__(self, **_: Any) -> str:
        return f"GpuTensor({self.held!r})"

    def tolist(self) -> Any:
        return self.held.tolist()

    def numpy(self, *args: Any, **kwargs: Any) -> Any:
        raise TypeError("can't convert cuda:0 device type tensor to numpy")

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.ops.prim.device.default:
            return GPU
        raise AssertionError(f"{func} outside of simulated_gpu()")


class _OnGpu(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self._mode_key = torch._C._TorchDispatchModeKey.FAKE  # else torch looks for a driver

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        if func is torch.ops.prim.device.default:
            return GPU if isinstance(args[0], GpuTensor) else args[0].device
        inputs = [x for x in tree_leaves((args, kwargs)) if isinstance(x, torch.Tensor)]
        on_gpu = {id(x.held): x for x in inputs if isinstance(x, GpuTensor)}
        device = torch.device(kwargs["device"]) if kwargs.get("device") is not None else None
        if on_gpu and func not in _MOVES:
            at = _INDEXES.get(func)
            checked = inputs if at is None else [x for x in tree_leaves(args[:at] + args[at + 1 :]) if _is_tensor(x)]
            strays = [x for x in checked if not isinstance(x, GpuTensor) and x.dim()]
            if strays:
                raise RuntimeError(f"{func} is given tensors on cuda:0 and on cpu, of shape {tuple(strays[0].shape)}")
        if device is not None:
            kwargs["device"] = torch.device("cpu")
        if func is aten._to_copy.default and device is not None:
            kwargs["non_blocking"] = False
        args, kwargs = tree_map(lambda x: x.held if isinstance(x, GpuTensor) else x, (args, kwargs))
        out = func(*args, **kwargs)
        to_gpu = device.type == "cuda" if device is not None else bool(on_gpu)
        if func is aten.copy_.default:
            to_gpu = id(args[0]) in on_gpu

        def placed(x: Any) -> Any:
            if not to_gpu or not _is_tensor(x):
                return x
            return on_gpu[id(x)] if id(x) in on_gpu else GpuTensor(x)

        return tree_map(placed, out)


def _nothing(*_: Any) -> None:
    pass


def _is_tensor(x: Any) -> bool:
    return isinstance(x, torch.Tensor)


@contextlib.contextmanager
def simulated_gpu() -> Iterator[torch.device]:
    """Within it ``.to("cuda")`` and ``device="cuda"`` work; without a gradient."""
    torch._C._ensureCUDADeviceGuardSet()  # one that does nothing, where there is no driver
    torch._C._set_only_lift_cpu_tensors(True)  # torch.tensor(..., device="cuda") is made here and moved
    torch.__future__.set_overwrite_module_params_on_conversion(True)
    try:
        # A subclass cannot go in and out of inference mode; without a gradient it makes no difference.
        with patch.multiple(torch.inference_mode, __enter__=_nothing, __exit__=_nothing), _OnGpu(), torch.no_grad():
            yield GPU
    finally:
        torch.__future__.set_overwrite_module_params_on_conversion(False)
        torch._C._set_only_lift_cpu_tensors(False)
