"""torch.compile as a switch of the recipe."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from stoa.models.layers import Block
from stoa.training.config import Compiled


def compile_parts(objective: nn.Module, what: Compiled, **options: Any) -> None:
    """Compile a training step's forward pass, and with it its backward pass, at its first call.

    Names and weights stay as they are. A compiler fuses what lies between products of matrices, and lets the host issue
    fewer operations; it takes minutes for a large model, once a process.

    Args:
        objective: see :class:`stoa.objectives.total.TrainingObjective`.
        what: ``blocks`` each transformer block (blocks of the same sizes share their code), ``forward`` all of it.
        options: of :func:`torch.compile`.
    """
    if what == "forward":
        objective.compile(**options)
    elif what == "blocks":
        # One function serves all blocks: each size of sequence, mask and mode is a variant of it.
        torch._dynamo.config.recompile_limit = max(torch._dynamo.config.recompile_limit, 64)
        for module in objective.modules():
            if isinstance(module, Block):
                module.compile(**options)
