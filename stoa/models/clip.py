"""CLIP's two towers, from open_clip, with taps on inner blocks.

Shape legend: B clips, T frames, F = B * T, P patches, S = P + 1, h vision width, w text width, d joint width, L tokens.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Sequence
from itertools import repeat
from typing import Any

import open_clip
import torch
from open_clip.constants import OPENAI_DATASET_MEAN, OPENAI_DATASET_STD
from torch import nn

from stoa.models.config import PRESETS, BackboneConfig
from stoa.models.eva import PlainVision, is_eva, plain_state
from stoa.models.layers import Attend, Block, causal, recomputed

# Of open_clip's keys those that change what this module takes for granted; it ignores them otherwise.
_PLAIN: dict[str, dict[str, Any]] = {
    "text_cfg": {"hf_tokenizer_name": None, "vocab_size": 49408, "no_causal_mask": False, "pool_type": "argmax"},
    "vision_cfg": {"pool_type": "tok", "no_ln_pre": False, "final_ln_after_pool": False},
}


class VisionTower(nn.Module):
    """CLIP's ViT. Parameter names are open_clip's.

    Args:
        source: open_clip's tower.
        joint_last_blocks: in the last blocks the tokens of all frames of a clip see each other; in the others each
            frame is on its own.
    """

    def __init__(
        self, source: open_clip.transformer.VisionTransformer | PlainVision, *, joint_last_blocks: int = 0
    ) -> None:
        super().__init__()
        self.conv1 = source.conv1
        self.class_embedding = source.class_embedding
        self.positional_embedding = source.positional_embedding
        self.ln_pre = source.ln_pre
        self.transformer = nn.Module()
        self.transformer.resblocks = nn.ModuleList(Block.like(block) for block in source.transformer.resblocks)
        self.ln_post = source.ln_post
        self.proj = source.proj
        self.grid_hw: tuple[int, int] = source.grid_size
        self.joint_last_blocks = joint_last_blocks
        self.recomputing = False

    @property
    def width(self) -> int:
        return self.class_embedding.shape[0]

    @property
    def blocks(self) -> list[Block]:
        return list(self.transformer.resblocks)  # type: ignore[arg-type]

    def forward(
        self, images_BTCHW: torch.Tensor, taps: frozenset[int] = frozenset()
    ) -> tuple[torch.Tensor, dict[int, torch.Tensor]]:
        """Encode normalised frames.

        Args:
            images_BTCHW: in the dtype of the weights.
            taps: blocks, counted from 1, whose outputs are wanted; 0 is the input of the first.

        Returns:
            the projected [CLS] (B, T, d), and per tapped block its tokens (B*T, S, h), the [CLS] first.
        """
        B, T = images_BTCHW.shape[:2]
        x_FSh = self._embed_patches(images_BTCHW.flatten(0, 1))
        x_FSh = torch.cat([self.class_embedding.expand(x_FSh.shape[0], 1, -1), x_FSh], dim=1)
        x_FSh = self.ln_pre(x_FSh + self.positional_embedding)
        tapped = {0: x_FSh} if 0 in taps else {}
        first_joint = len(self.blocks) - self.joint_last_blocks + 1
        for number, block in enumerate(self.blocks, start=1):
            rows = (B, -1, self.width) if number >= first_joint else (B * T, -1, self.width)
            x_FSh = recomputed(block, self.recomputing, x_FSh.view(rows)).view(x_FSh.shape)
            if number in taps:
                tapped[number] = x_FSh
        return (self.ln_post(x_FSh[:, 0]) @ self.proj).unflatten(0, (B, T)), tapped

    def freeze(self, num_blocks: int) -> None:
        """Train neither the embeddings nor the first ``num_blocks`` blocks; with all blocks nothing of the tower. No
        gradient then passes them, which saves their backward pass.

        Raises:
            ValueError: the tower has fewer blocks.
        """
        if num_blocks > len(self.blocks):
            raise ValueError(
                f"training.optim.frozen_vision_blocks is {num_blocks}; the vision tower has {len(self.blocks)} blocks, "
                "expected at most so many"
            )
        if not num_blocks:
            return
        trained = {id(p) for block in self.blocks[num_blocks:] for p in block.parameters()}
        if num_blocks < len(self.blocks):
            trained |= {id(p) for p in (self.proj, *self.ln_post.parameters())}
        for parameter in self.parameters():
            parameter.requires_grad_(id(parameter) in trained)

    def _embed_patches(self, images_FCHW: torch.Tensor) -> torch.Tensor:
        """The patch convolution as the product it is: its stride is its kernel.

        oneDNN's gradient of that convolution can run for ever on a CPU (strided, few images, two threads).
        """
        num_frames, C, H, W = images_FCHW.shape
        side_h, side_w = self.conv1.weight.shape[-2:]
        patches = images_FCHW.view(num_frames, C, H // side_h, side_h, W // side_w, side_w).permute(0, 2, 4, 1, 3, 5)
        return patches.reshape(num_frames, -1, C * side_h * side_w) @ self.conv1.weight.flatten(1).T


class Clip(nn.Module):
    """Both towers and the temperature. Its state dict has the keys of ``open_clip.CLIP``;
    ``logit_scale`` has shape (1,), as with open_clip's ``nonscalar_logit_scale``.

    Args:
        config: which.
        joint_last_blocks: see :class:`VisionTower`.
    """

    pixel_mean: torch.Tensor
    pixel_std: torch.Tensor

    def __init__(self, config: BackboneConfig, *, joint_last_blocks: int = 0) -> None:
        super().__init__()
        _require_plain(config)
        source = build_open_clip(config)
        vision, text = source.visual, source
        if is_eva(architecture(config)):
            vision, text = PlainVision(vision.trunk, plain_state(source.state_dict())), source.text
        try:
            self.visual = VisionTower(vision, joint_last_blocks=joint_last_blocks)
            text_blocks = [Block.like(block) for block in text.transformer.resblocks]
        except (AttributeError, RuntimeError):
            raise _not_plain(config) from None
        self.transformer = nn.Module()
        self.transformer.resblocks = nn.ModuleList(text_blocks)
        self.token_embedding: nn.Embedding = text.token_embedding
        self.positional_embedding: nn.Parameter = text.positional_embedding
        self.ln_final: nn.LayerNorm = text.ln_final
        self.text_projection: nn.Parameter = text.text_projection
        # DeepSpeed cannot broadcast a parameter without dimensions.
        self.logit_scale = nn.Parameter(source.logit_scale.detach().reshape(1))
        self.recomputing = False
        self.outputs_of_frames: Callable[..., tuple[torch.Tensor, dict[int, torch.Tensor]]] | None = None
        """Is asked for what a frozen tower gives, and given what computes it."""
        for name, values in (("mean", OPENAI_DATASET_MEAN), ("std", OPENAI_DATASET_STD)):
            self.register_buffer(f"pixel_{name}", 255.0 * torch.tensor(values).view(3, 1, 1), persistent=False)

    @property
    def context_length(self) -> int:
        return self.positional_embedding.shape[0]

    @property
    def text_width(self) -> int:
        return self.token_embedding.embedding_dim

    @property
    def joint_width(self) -> int:
        return self.text_projection.shape[1]

    @property
    def text_blocks(self) -> nn.ModuleList:
        return self.transformer.resblocks  # type: ignore[return-value]

    def recompute(self, enable: bool) -> None:
        """Whether the backward pass computes the blocks' activations again."""
        self.recomputing = self.visual.recomputing = enable

    def encode_frames(
        self, frames_BTCHW: torch.Tensor, taps: frozenset[int] = frozenset()
    ) -> tuple[torch.Tensor, dict[int, torch.Tensor]]:
        """uint8 frames -> projected [CLS] (B, T, d) and tapped tokens (B*T, S, h)."""
        if self.outputs_of_frames is not None:
            return self.outputs_of_frames(frames_BTCHW, taps, self._encode_frames)
        return self._encode_frames(frames_BTCHW, taps)

    def _encode_frames(
        self, frames_BTCHW: torch.Tensor, taps: frozenset[int]
    ) -> tuple[torch.Tensor, dict[int, torch.Tensor]]:
        images_BTCHW = ((frames_BTCHW - self.pixel_mean) / self.pixel_std).to(self.visual.conv1.weight.dtype)
        return self.visual(images_BTCHW, taps)

    def encode_text(
        self,
        embeddings_BLw: torch.Tensor,
        positions_BL: torch.Tensor | None = None,
        attends: Sequence[Attend] | None = None,
    ) -> torch.Tensor:
        """Token embeddings (before positions are added) -> projected outputs at every position (B, L, d).

        Args:
            embeddings_BLw: rows of the token table.
            positions_BL: int64; default 0, 1, ...
            attends: attention of each block; default causal.
        """
        L = embeddings_BLw.shape[1]
        positions = self.positional_embedding[:L] if positions_BL is None else self.positional_embedding[positions_BL]
        x_BLw = embeddings_BLw + positions
        for block, attend in zip(self.text_blocks, attends or repeat(causal), strict=False):
            x_BLw = recomputed(block, self.recomputing, x_BLw, attend)
        return self.ln_final(x_BLw) @ self.text_projection


def architecture(config: BackboneConfig) -> dict[str, Any]:
    """Sizes and activation of a backbone, in open_clip's form: what its name stands for."""
    return PRESETS.get(config.name) or open_clip.get_model_config(config.name)


def _require_plain(config: BackboneConfig) -> None:
    """What tokens, masks and poolings of CLIP are taken for granted here.

    Raises:
        ValueError: the backbone has others.
    """
    of_backbone = architecture(config) or {}
    for part, values in _PLAIN.items():
        for key, plain in values.items():
            value = of_backbone.get(part, {}).get(key, plain)
            if value != plain:
                raise _not_plain(config, f": its {part} has {key} {value!r}")


def _not_plain(config: BackboneConfig, why: str = "") -> ValueError:
    return ValueError(
        f"model.backbone.name {config.name!r} is not a plain CLIP with a ViT and CLIP's own text tower{why}; choose "
        "for example ViT-B-16-quickgelu, ViT-L-14 or EVA01-g-14"
    )


def require_architecture(backbone: BackboneConfig, trained: dict[str, Any], source: str) -> None:
    """A name stands for the same sizes as when the weights were trained.

    Raises:
        ValueError: it does not.
    """
    if trained != architecture(backbone):
        raise ValueError(
            f"{source} was trained when {backbone.name} stood for {trained}, now it is {architecture(backbone)}; use "
            "it with the version of stoa that trained it"
        )


def image_side(config: BackboneConfig) -> int:
    """Side in pixels of the square frames a backbone sees.

    Raises:
        ValueError: it sees frames that are not square.
    """
    side = architecture(config)["vision_cfg"]["image_size"]
    height, width = side if isinstance(side, (list, tuple)) else (side, side)
    if height != width:
        raise ValueError(
            f"model.backbone.name {config.name!r} sees frames of {height} x {width} pixels and data are prepared as "
            "squares; choose a backbone that sees squares"
        )
    return int(height)


def grid_hw(config: BackboneConfig) -> tuple[int, int]:
    """Rows and columns of the patches of a frame."""
    vision = architecture(config)["vision_cfg"]
    if "patch_size" not in vision:  # of timm, which has it in the name
        vision = {**vision, "patch_size": int(re.findall(r"patch(\d+)", vision["timm_model_name"])[0])}
    sides, patch = (
        size if isinstance(size, (list, tuple)) else (size, size)
        for size in (vision["image_size"], vision["patch_size"])
    )
    return int(sides[0] // patch[0]), int(sides[1] // patch[1])


def build_open_clip(config: BackboneConfig) -> open_clip.CLIP:
    """The randomly initialised open_clip model that ``config`` names."""
    if config.name in PRESETS:
        return open_clip.CLIP(**PRESETS[config.name])
    level = logging.getLogger().level
    logging.getLogger().setLevel(logging.ERROR)  # open_clip warns on the root logger that no weights are loaded
    try:
        return open_clip.create_model(config.name, device=torch.get_default_device())
    finally:
        logging.getLogger().setLevel(level)
