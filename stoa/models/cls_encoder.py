"""The encoder behind trajectory and action tokens (STOA-VLP).

Shape legend: B sequences, S tokens, Q [CLS] tokens, h vision width, d joint width.
"""

from __future__ import annotations

import copy

import torch
from torch import nn

from stoa.models.clip import VisionTower
from stoa.models.layers import Attend, Block, full


class ClsEncoder(nn.Module):
    """Layers that start as the top of the ViT; only the [CLS] rows leave them, projected to the joint space.

    Args:
        vision: whose last blocks, ``ln_post`` and projection are copied.
        layers: blocks, at most the depth of ``vision``.
        option: name of the recipe value behind ``layers``, for the message.

    Raises:
        ValueError: more layers than ``vision`` has.
    """

    def __init__(self, vision: VisionTower, layers: int, option: str) -> None:
        super().__init__()
        if layers > len(vision.blocks):
            raise ValueError(
                f"{option} is {layers}, more than the {len(vision.blocks)} blocks of the vision tower that initialise "
                "them; lower it"
            )
        self.blocks = nn.ModuleList(Block.like(block) for block in vision.blocks[-layers:])
        self.ln_post = copy.deepcopy(vision.ln_post)
        self.proj = nn.Parameter(vision.proj.detach().clone())

    @torch.no_grad()
    def start_from(self, vision: VisionTower) -> None:
        """Copy the tower's weights, as construction does; for a tower that was loaded since."""
        for own, source in zip(self.blocks, vision.blocks[-len(self.blocks) :], strict=True):
            own.load_state_dict(source.state_dict())
        self.ln_post.load_state_dict(vision.ln_post.state_dict())
        self.proj.copy_(vision.proj)

    def forward(self, x_BSh: torch.Tensor, num_cls: int, attend: Attend = full) -> torch.Tensor:
        """Encode sequences that begin with ``num_cls`` [CLS] tokens; (B, Q, d) for these."""
        *lower, last = self.blocks
        for block in lower:
            x_BSh = block(x_BSh, attend)
        x_BQh = last(x_BSh, attend, lambda x: x[:, :num_cls])
        return self.ln_post(x_BQh) @ self.proj
