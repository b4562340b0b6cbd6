"""The ways an operator can be reached, as parameters of a test."""

from collections.abc import Callable
from typing import Any

import pytest
import torch

from stoa.ops._extension import compiled_devices


def on_cuda(operator: Callable[..., Any]) -> Callable[..., Any]:
    """Runs an operator on the GPU with arguments and results on the CPU; gradients pass through."""

    def call(*arguments: Any, **options: Any) -> Any:
        moved = [x.cuda() if isinstance(x, torch.Tensor) else x for x in arguments]
        result = operator(*moved, **options)
        return tuple(x.cpu() for x in result) if isinstance(result, tuple) else result.cpu()

    return call


def implementations(name: str, operator: Callable[..., Any], reference: Callable[..., Any]) -> pytest.MarkDecorator:
    """Parametrises a test over the operator on the CPU, its reference, and the operator on a GPU."""
    return pytest.mark.parametrize(
        name,
        [
            pytest.param(operator, id="op"),
            pytest.param(reference, id="reference"),
            pytest.param(on_cuda(operator), id="cuda", marks=pytest.mark.needs_cuda),
        ],
    )


def operators(name: str, operator: Callable[..., Any]) -> pytest.MarkDecorator:
    """As above for what compares with the reference, which the uncompiled operator is."""
    return pytest.mark.parametrize(
        name,
        [
            pytest.param(
                operator,
                id="op",
                marks=pytest.mark.skipif(
                    "cpu" not in compiled_devices(f"stoa::{operator.__name__}"), reason="it is not built"
                ),
            ),
            pytest.param(on_cuda(operator), id="cuda", marks=pytest.mark.needs_cuda),
        ],
    )
