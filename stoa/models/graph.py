"""The spatio-temporal graph transformer (STGT) on patch tokens of the vision tower.

Shape legend: B clips, T frames, P patches, S = P + 1 with the [CLS] first, R tokens that leave a frame, h vision width,
d joint width.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from functools import partial
from typing import NamedTuple

import torch
from torch import nn

from stoa.models.clip import VisionTower
from stoa.models.config import EdgeMode, GraphConfig
from stoa.models.graph_attention import Edges, band_edges, density, graph_attention
from stoa.models.layers import POSITION_SCALE, Block, SelfAttention, at_least_fp32, recomputed


class GraphFeatures(NamedTuple):
    """What the graph module makes of a clip.

    Attributes:
        tokens_BRd: joint-space tokens of all frames, frame by frame, the [CLS] of each first; R is T times
            ``GraphConfig.tokens_of_frame``.
        pooled_Bd: to add to the mean of CLIP's frames; zero at first.
        density_B: fp32, share of the possible edges that there are in the last layer.
    """

    tokens_BRd: torch.Tensor
    pooled_Bd: torch.Tensor
    density_B: torch.Tensor


class GraphEncoder(nn.Module):
    """Tokens of one vision block -> graph blocks -> rows and columns of every frame.

    Raises:
        ValueError: the width of the tower is no multiple of 4 and positions are ``sincos``.
    """

    positions_Sh: torch.Tensor

    def __init__(self, config: GraphConfig, vision: VisionTower, *, num_frames: int) -> None:
        super().__init__()
        self.config, self.grid_hw = config, vision.grid_hw
        self.recomputing = False
        h, d = vision.proj.shape
        self.frame_embedding = nn.Parameter(torch.randn(num_frames, 1, h))
        if config.positions == "sincos":
            self.register_buffer("positions_Sh", sincos_positions(self.grid_hw, h), persistent=False)
        else:
            shape = 1 + self.grid_hw[0] * self.grid_hw[1], h
            std = 0.5**0.5 if config.residual else 0.02  # of sines and cosines; of the release
            self.register_buffer("positions_Sh", nn.init.trunc_normal_(torch.empty(shape), std=std))
        self.blocks = nn.ModuleList(GraphBlock(config, block) for block in self._sources(vision))
        self.gate = nn.Parameter(torch.zeros(1))
        self.pooled_proj = nn.Linear(h, d, bias=False)
        self.ln_out, self.between = copy.deepcopy(vision.ln_post), nn.Sequential()
        self.proj = nn.Linear(h, d, bias=False)
        if config.residual:
            self.start_from(vision)
        else:
            self.ln_out.reset_parameters()
            mixing = nn.Linear(h, h, bias=False)
            nn.init.normal_(mixing.weight, std=h**-0.5)
            self.between.extend([mixing, nn.LayerNorm(h)])
            nn.init.trunc_normal_(self.frame_embedding, std=0.02)

    def _sources(self, vision: VisionTower) -> list[Block]:
        """The vision blocks behind the tap, the last again where there are none."""
        blocks = vision.blocks
        first = len(blocks) - self.config.tap_from_top
        return [blocks[min(first + layer, len(blocks) - 1)] for layer in range(self.config.layers)]

    @torch.no_grad()
    def start_from(self, vision: VisionTower) -> None:
        """Copy the tower's weights, as construction does; for a tower that was loaded since."""
        if not self.config.residual:
            return
        for own, source in zip(self.blocks, self._sources(vision), strict=True):
            assert isinstance(own, GraphBlock)
            own.start_from(source)
        self.ln_out.load_state_dict(vision.ln_post.state_dict())
        for projection in (self.proj, self.pooled_proj):
            projection.weight.copy_(vision.proj.T)

    def forward(self, tokens_BTSh: torch.Tensor) -> GraphFeatures:
        """Encode the tapped tokens of a clip."""
        x_BTSh = self._embed(tokens_BTSh)
        edges: Sequence[Edges] = ()
        for block in self.blocks:
            x_BTSh, edges = recomputed(block, self.recomputing, x_BTSh)
        x_BTRh = self._pool(x_BTSh)
        if self.config.contrast:
            x_BTRh = x_BTRh + self.config.contrast * (x_BTRh - x_BTRh.mean(dim=1, keepdim=True))
        x_BTRh = self.between(self.ln_out(x_BTRh))
        pooled_Bd = self.gate * self.pooled_proj(x_BTRh[:, :, 0].mean(dim=1))
        return GraphFeatures(self.proj(x_BTRh).flatten(1, 2), pooled_Bd, density(edges))

    def _embed(self, tokens_BTSh: torch.Tensor) -> torch.Tensor:
        embedding_TSh = self.frame_embedding + self.positions_Sh.to(tokens_BTSh.dtype)
        if not self.config.residual:
            return tokens_BTSh + embedding_TSh
        # The tower's tokens have any scale, which the copied blocks rely on.
        scale_BTS1 = at_least_fp32(tokens_BTSh.detach()).square().mean(dim=-1, keepdim=True).sqrt()
        return tokens_BTSh + (POSITION_SCALE * scale_BTS1).to(tokens_BTSh.dtype) * embedding_TSh

    def _pool(self, x_BTSh: torch.Tensor) -> torch.Tensor:
        if self.config.pool == "none":
            return x_BTSh
        if self.config.pool == "mean":
            return torch.cat([x_BTSh[:, :, :1], x_BTSh[:, :, 1:].mean(dim=2, keepdim=True)], dim=2)
        grid = x_BTSh[:, :, 1:].unflatten(2, self.grid_hw)
        return torch.cat([x_BTSh[:, :, :1], grid.amax(dim=2), grid.amax(dim=3)], dim=2)


class GraphBlock(nn.Module):
    """The [CLS] of all frames see each other, patches see those they share an edge with, then a frame's tokens see each
    other.

    Args:
        config: see :class:`GraphConfig`.
        source: a vision block, of the same sizes as the others and, with ``residual``, what they start from.
    """

    def __init__(self, config: GraphConfig, source: Block) -> None:
        super().__init__()
        self.config = config
        h = source.ln_1.weight.shape[0]
        self.proj_fc = nn.Linear(h, h)
        self.cross_frame, self.spatial = Block.like(source), Block.like(source)
        self.ln_graph = nn.LayerNorm(h) if config.residual else nn.Identity()
        self.graph = SelfAttention(h, source.attn.heads)
        if config.residual:
            nn.init.eye_(self.proj_fc.weight)
            nn.init.zeros_(self.proj_fc.bias)
            _zero(self.graph.out_proj)
            self.start_from(source)
        else:
            for module in (self.proj_fc, self.cross_frame, self.spatial, self.graph):
                module.apply(_start_as_released)
            nn.init.trunc_normal_(self.graph.in_proj_weight, std=0.02)  # linear layers of their own there

    def start_from(self, source: Block) -> None:
        """Copy a vision block; what the [CLS] tokens gain from each other is zero at first."""
        for own in (self.cross_frame, self.spatial):
            own.load_state_dict(source.state_dict())
        _zero(self.cross_frame.attn.out_proj)
        _zero(self.cross_frame.mlp[-1])

    def forward(self, x_BTSh: torch.Tensor) -> tuple[torch.Tensor, list[Edges]]:
        B, T = x_BTSh.shape[:2]
        x_BTSh = self.proj_fc(x_BTSh)
        cls_BTh, patches_BTPh = x_BTSh[:, :, 0], x_BTSh[:, :, 1:]
        for _ in range(self.config.global_repeats):
            cls_BTh = self.cross_frame(cls_BTh)
        edges = band_edges(patches_BTPh, reach=self.config.reach, threshold=self.config.threshold)
        attend = partial(_along, edges, self.config.edge_mode)
        seen_BTPh = self.graph(self.ln_graph(patches_BTPh).flatten(1, 2), attend).view(patches_BTPh.shape)
        patches_BTPh = patches_BTPh + seen_BTPh if self.config.residual else seen_BTPh
        x_BTSh = torch.cat([cls_BTh[:, :, None], patches_BTPh], dim=2)
        return self.spatial(x_BTSh.flatten(0, 1)).unflatten(0, (B, T)), edges


def _along(
    edges: Sequence[Edges], mode: EdgeMode, q_BHND: torch.Tensor, k_BHND: torch.Tensor, v_BHND: torch.Tensor
) -> torch.Tensor:
    """Attention of all patches of a clip in one sequence."""
    q, k, v = (x.unflatten(2, (len(edges), -1)) for x in (q_BHND, k_BHND, v_BHND))
    return graph_attention(q, k, v, edges, mode).flatten(2, 3)


def _zero(module: nn.Module) -> None:
    for parameter in module.parameters():
        nn.init.zeros_(parameter)


def _start_as_released(module: nn.Module) -> None:
    if isinstance(module, nn.Linear):
        nn.init.trunc_normal_(module.weight, std=0.02)
        nn.init.zeros_(module.bias)
    elif isinstance(module, nn.LayerNorm):
        module.reset_parameters()
    elif isinstance(module, SelfAttention):
        nn.init.xavier_uniform_(module.in_proj_weight)
        nn.init.zeros_(module.in_proj_bias)


def sincos_positions(grid_hw: tuple[int, int], width: int) -> torch.Tensor:
    """Fixed 2-D positions, (1 + rows * columns, width), fp32, the [CLS] first with zeros: a quarter of the width each
    for the sines and cosines of the row and of the column, with wavelengths from 2 pi to 10,000 times that.

    Raises:
        ValueError: ``width`` is no multiple of 4.
    """
    if width % 4:
        raise ValueError(f"model.graph.positions is sincos and the vision tower {width} wide; expected a multiple of 4")
    frequencies = torch.exp(-math.log(10000.0) * torch.arange(width // 4) / (width // 4))
    rows, columns = (torch.arange(n)[:, None] * frequencies for n in grid_hw)
    shape = (*grid_hw, width // 4)
    rows, columns = rows[:, None].expand(shape), columns[None].expand(shape)
    table = torch.cat([rows.sin(), rows.cos(), columns.sin(), columns.cos()], dim=-1).flatten(0, 1)
    return torch.cat([torch.zeros(1, width), table])
