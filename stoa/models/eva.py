"""EVA's CLIP of open_clip (EVA01) as the plain CLIP it is but for names, and for biases that CLIP does not have.

Shape legend: S tokens of a frame, h vision width, d joint width.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from stoa.models.layers import Block

_TRUNK = "visual.trunk."
_NAMES = {
    "norm1": "ln_1",
    "attn.proj": "attn.out_proj",
    "norm2": "ln_2",
    "mlp.fc1": "mlp.c_fc",
    "mlp.fc2": "mlp.c_proj",
}


def is_eva(architecture: Mapping[str, Any]) -> bool:
    """Whether an open_clip architecture is one of these. EVA02 is not: it has rotary positions and gated MLPs."""
    return str(architecture["vision_cfg"].get("timm_model_name", "")).startswith("eva_")


class PlainVision(nn.Module):
    """The vision tower under the names of open_clip's ViT, for :class:`stoa.models.clip.VisionTower` to take.

    Args:
        trunk: timm's Eva, without rotary positions, that reads out its [CLS].
        state: see :func:`plain_state`.
    """

    def __init__(self, trunk: Any, state: Mapping[str, torch.Tensor]) -> None:
        super().__init__()
        own = {name.removeprefix("visual."): x for name, x in state.items() if name.startswith("visual.")}
        width, joint = own["proj"].shape
        with torch.device("meta"):  # it holds the tensors of the state, not copies of a gigabyte and more
            self._make(trunk, width, joint, own["positional_embedding"].shape)
        self.load_state_dict(own, assign=True)

    def _make(self, trunk: Any, width: int, joint: int, positions: torch.Size) -> None:
        norm = trunk.blocks[0].norm1
        hidden = trunk.blocks[0].mlp.fc1.out_features
        self.conv1 = nn.Conv2d(3, width, trunk.patch_embed.patch_size, trunk.patch_embed.patch_size, bias=False)
        self.class_embedding = nn.Parameter(torch.empty(width))
        self.positional_embedding = nn.Parameter(torch.empty(positions))
        self.ln_pre = nn.Identity()
        self.transformer: Any = nn.Module()
        self.transformer.resblocks = nn.ModuleList(
            Block(width, block.attn.num_heads, hidden, nn.GELU(), eps=norm.eps) for block in trunk.blocks
        )
        self.ln_post = nn.LayerNorm(width, eps=norm.eps)
        self.proj = nn.Parameter(torch.empty(width, joint))
        self.grid_size: tuple[int, int] = trunk.patch_embed.grid_size


def plain_state(state: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """A state dict of open_clip's EVA01 under the names of its plain CLIP; one that is already so stays as it is.

    The bias of the patches goes into their positions. That of the projection goes into the norm before it, as the
    shortest vector that the projection makes it of: the joint space is no wider than the tower.
    """
    if not any(name.startswith(_TRUNK) for name in state):
        return dict(state)
    trunk = {name.removeprefix(_TRUNK): x for name, x in state.items() if name.startswith(_TRUNK)}
    out = {name.removeprefix("text."): x for name, x in state.items() if not name.startswith(_TRUNK)}
    positions_Sh = trunk["pos_embed"][0].clone()
    positions_Sh[1:] += trunk["patch_embed.proj.bias"]
    proj_hd = trunk["head.weight"].T
    shift_h = torch.linalg.pinv(proj_hd.T.double()) @ trunk["head.bias"].double()
    plain = {
        "conv1.weight": trunk["patch_embed.proj.weight"],
        "class_embedding": trunk["cls_token"].flatten(),
        "positional_embedding": positions_Sh,
        "ln_post.weight": trunk["norm.weight"],
        "ln_post.bias": trunk["norm.bias"] + shift_h.to(trunk["norm.bias"].dtype),
        "proj": proj_hd.contiguous(),
    }
    for name, x in trunk.items():
        if found := re.fullmatch(r"blocks\.(\d+)\.(.+)\.(weight|bias)", name):
            block, part, kind = found.groups()
            if part in _NAMES:
                plain[f"transformer.resblocks.{block}.{_NAMES[part]}.{kind}"] = x
            elif part == "attn.qkv":
                plain[f"transformer.resblocks.{block}.attn.in_proj_weight"] = x
        elif found := re.fullmatch(r"blocks\.(\d+)\.attn\.q_bias", name):
            block = found.group(1)
            biases = x, torch.zeros_like(x), trunk[f"blocks.{block}.attn.v_bias"]  # keys have none
            plain[f"transformer.resblocks.{block}.attn.in_proj_bias"] = torch.cat(biases)
    return out | {f"visual.{name}": x for name, x in plain.items()}
