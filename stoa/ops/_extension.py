"""Finds the compiled extension stoa._C once, or says once why the references run instead."""

import functools
import importlib
import os
import warnings
from types import ModuleType
from typing import Any

# The extension has no run path to torch's libraries; importing torch loads them.
import torch

_REINSTALL = "STOA_FORCE_EXT=1 pip install --force-reinstall --no-deps <the stoa checkout>"


@functools.cache
def load_extension() -> ModuleType | None:
    """The module stoa._C, or None after one RuntimeWarning.

    STOA_NO_EXT=1 in the environment keeps it from being loaded, to compare with the references.
    """
    if os.environ.get("STOA_NO_EXT") == "1":
        _warn("STOA_NO_EXT=1 is set")
        return None
    try:
        extension = importlib.import_module("stoa._C")
    except ModuleNotFoundError:
        _warn(f"stoa was installed without it: no C++ compiler, or STOA_NO_EXT=1; to build it: {_REINSTALL}")
        return None
    except ImportError as error:
        _warn(
            f"stoa._C does not load ({error}); it was built for another torch than {torch.__version__}, or for "
            f"another Python; to build it again: {_REINSTALL}"
        )
        return None
    built_with = extension.build_info()["torch"]
    if built_with != torch.__version__:
        warnings.warn(
            f"stoa._C was built with torch {built_with} and runs with {torch.__version__}; to build it again: "
            f"{_REINSTALL}",
            RuntimeWarning,
            stacklevel=2,
        )
    return extension


def build_info() -> dict[str, Any]:
    """How the compiled operators were built.

    Returns:
        compiled: whether stoa._C is loaded; if so also torch, compiler, cpp_standard, cuda_toolkit (None in a CPU
        build), cuda_architectures, flags and operators, the qualified names of those registered.
    """
    extension = load_extension()
    if extension is None:
        return {"compiled": False}
    return {"compiled": True, **extension.build_info()}


def compiled_devices(name: str) -> frozenset[str]:
    """Device types that a compiled operator, as ``stoa::roi_align_max``, runs on: none without the extension, no cuda
    in a build without it. On meta it tells shapes."""
    extension = load_extension()
    if extension is None:
        return frozenset()
    if name not in extension.build_info()["operators"]:
        _warn(f"stoa._C was built before there was {name}; to build it again: {_REINSTALL}")
        return frozenset()
    if extension.build_info()["cuda_toolkit"] is not None:
        return frozenset({"cpu", "cuda", "meta"})
    if torch.cuda.is_available():
        cause = f"stoa._C was built without CUDA; to build it again with a toolkit in CUDA_HOME: {_REINSTALL}"
        _warn(cause, where=" on the GPU")
    return frozenset({"cpu", "meta"})


def forbid_second_derivative(name: str) -> None:
    """Let differentiating the output of an operator fail; without a rule torch warns and takes it for a constant."""

    def backward(ctx: Any, *grads: torch.Tensor) -> None:
        raise RuntimeError(f"{name} has no derivative of its own: second derivatives are not supported")

    torch.library.register_autograd(name, backward)


def _warn(cause: str, where: str = "") -> None:
    message = f"The compiled operators of stoa are not in use{where}, the slower PyTorch references run: {cause}"
    warnings.warn(message, RuntimeWarning, stacklevel=3)
