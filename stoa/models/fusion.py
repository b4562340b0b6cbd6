"""The modality-agnostic fusion encoder (STOA-VLP).

Shape legend: B clips, N pairs of a clip and a text, G video-side tokens, L text tokens, S = G + L, Q wanted rows,
w text width, d joint width.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import NamedTuple

import torch
from torch import nn

from stoa.models.causal_texts import CausalPass, Packing
from stoa.models.config import FusionConfig
from stoa.models.layers import POSITION_SCALE, Attend, Block, masked, recomputed


class FusionPass(NamedTuple):
    """What is to be fused, and the rows that are wanted of it.

    Attributes:
        video_NGd: joint-space tokens of all groups, in order.
        text_NLd: joint-space text tokens.
        mask_NSS: bool; True where a row sees a column. Every row must see something.
        rows_NQ: int64, places in the sequence.
        positions_L: int64, text position of each text token; None is 0, 1, ...
    """

    video_NGd: torch.Tensor
    text_NLd: torch.Tensor
    mask_NSS: torch.Tensor
    rows_NQ: torch.Tensor
    positions_L: torch.Tensor | None = None


class FusionEncoder(nn.Module):
    """Self-attention over ``[video side, text]``; its blocks start as the first of the text tower.

    The video side is a sequence of groups (frames, pooled video, ...); every group has a type
    embedding, every slot a position embedding, added to the normalised token.

    Args:
        config: see :class:`FusionConfig`.
        group_sizes: tokens of each video-side group, in order.
        text_blocks, text_positions_Lw, final_norm: the text tower's, copied; the positions at the scale of the others.
        joint_width: width of the tokens that come in.

    Raises:
        ValueError: it is deeper than the text tower.
    """

    type_of_slot_G: torch.Tensor

    def __init__(
        self,
        config: FusionConfig,
        *,
        group_sizes: dict[str, int],
        text_blocks: nn.ModuleList,
        text_positions_Lw: torch.Tensor,
        final_norm: nn.LayerNorm,
        joint_width: int,
    ) -> None:
        super().__init__()
        if config.layers > len(text_blocks):
            raise ValueError(
                f"model.fusion.layers is {config.layers}, more than the {len(text_blocks)} blocks of the text tower "
                "that initialise them; lower it"
            )
        w = text_positions_Lw.shape[1]
        self.group_sizes = dict(group_sizes)
        self.recomputing = False
        self.blocks = nn.ModuleList(Block.like(block) for block in text_blocks[: config.layers])
        self.ln_final = nn.LayerNorm(w)
        self.ln_final.load_state_dict(final_norm.state_dict())
        self.video_in = nn.Identity() if joint_width == w else nn.Linear(joint_width, w)
        self.text_in = nn.Identity() if joint_width == w else nn.Linear(joint_width, w)
        self.ln_video = nn.LayerNorm(w)
        self.ln_text = nn.LayerNorm(w)
        self.video_positions = nn.Parameter(POSITION_SCALE * torch.randn(sum(group_sizes.values()), w))
        self.text_positions = nn.Parameter(_to_scale(text_positions_Lw))
        self.type_embeddings = nn.Parameter(POSITION_SCALE * torch.randn(len(group_sizes) + 1, w))
        type_of_slot = [index for index, size in enumerate(group_sizes.values()) for _ in range(size)]
        self.register_buffer("type_of_slot_G", torch.tensor(type_of_slot), persistent=False)

    @torch.no_grad()
    def start_from(self, text_blocks: nn.ModuleList, text_positions_Lw: torch.Tensor, final_norm: nn.LayerNorm) -> None:
        """Copy the text tower's weights, as construction does; for towers that were loaded since."""
        for own, source in zip(self.blocks, text_blocks, strict=False):
            own.load_state_dict(source.state_dict())
        self.ln_final.load_state_dict(final_norm.state_dict())
        self.text_positions.copy_(_to_scale(text_positions_Lw))

    def slot(self, group: str) -> slice:
        """Where a video-side group stands in the sequence."""
        start = 0
        for name, size in self.group_sizes.items():
            if name == group:
                return slice(start, start + size)
            start += size
        raise KeyError(group)

    def forward(
        self,
        video_BGd: torch.Tensor,
        text_BLd: torch.Tensor,
        mask_BSS: torch.Tensor,
        rows_BQ: torch.Tensor | None = None,
        positions_L: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Fuse.

        Args:
            video_BGd: joint-space tokens of all groups, in order.
            text_BLd: joint-space text tokens.
            mask_BSS: bool, (B or 1, S, S); True where a row sees a column. Every row must see something.
            rows_BQ: int64, the rows that are wanted: the last block computes no others. Default all.
            positions_L: int64, text position of each text token; default 0, 1, ...

        Returns:
            outputs (B, S, w), or (B, Q, w) at the wanted rows.
        """
        x_BSw = torch.cat([self.embed_video(video_BGd), self.embed_text(text_BLd, positions_L)], dim=1)
        attends = [masked(mask_BSS[:, None])] * len(self.blocks)
        if rows_BQ is None:
            return self.encode(x_BSw, attends)
        return self._wanted(self._lower(x_BSw, attends[:-1]), mask_BSS, rows_BQ)

    def fuse(self, passes: Sequence[FusionPass | CausalPass]) -> list[torch.Tensor]:
        """The wanted rows (N, Q, w) of each pass; of a causal one those of :meth:`Packing.rows`.

        Others whose texts have places of the same kind run as one batch, but for the last block: they want different
        numbers of rows.
        """
        found: dict[int, torch.Tensor] = {}
        alike: dict[int, list[tuple[int, FusionPass]]] = {}
        for number, one in enumerate(passes):
            if isinstance(one, CausalPass):
                found[number] = self._fuse_causal(one)
            elif one.positions_L is None:
                alike.setdefault(one.text_NLd.shape[1], []).append((number, one))
            else:
                found[number] = self(one.video_NGd, one.text_NLd, one.mask_NSS, one.rows_NQ, one.positions_L)
        for together in alike.values():
            numbers, batch = zip(*together, strict=True)
            video_NGw = self.embed_video(torch.cat([one.video_NGd for one in batch]))
            text_NLw = self.embed_text(torch.cat([one.text_NLd for one in batch]))
            x_NSw = torch.cat([video_NGw, text_NLw], dim=1)
            if len(self.blocks) > 1:
                attend = masked(torch.cat([one.mask_NSS for one in batch])[:, None])
                x_NSw = self._lower(x_NSw, [attend] * (len(self.blocks) - 1))
            parts = x_NSw.split([len(one.rows_NQ) for one in batch])
            for number, one, part in zip(numbers, batch, parts, strict=True):
                found[number] = self._wanted(part, one.mask_NSS, one.rows_NQ)
        return [found[number] for number in range(len(passes))]

    def _fuse_causal(self, one: CausalPass) -> torch.Tensor:
        packing = Packing(one, self.slot("pooled").start)
        x_1Pw = packing.pack(self.embed_video(one.video_CGd), self.embed_text(one.text_NLd))
        x_1Pw = self._lower(x_1Pw, [packing.attend] * (len(self.blocks) - 1))
        x_1Qw = recomputed(self.blocks[-1], self.recomputing, x_1Pw, packing.attend, packing.wanted)
        return packing.rows(self.ln_final(x_1Qw))

    def embed_video(self, video_BGd: torch.Tensor) -> torch.Tensor:
        """Video-side tokens with their positions and types, (B, G, w)."""
        return (
            self.ln_video(self.video_in(video_BGd)) + self.video_positions + self.type_embeddings[self.type_of_slot_G]
        )

    def embed_text(self, text_BLd: torch.Tensor, positions: torch.Tensor | None = None) -> torch.Tensor:
        """Text tokens with their positions, (L,) or (B, L), and type, (B, L, w)."""
        L = text_BLd.shape[1]
        positions_Lw = self.text_positions[:L] if positions is None else self.text_positions[positions]
        return self.ln_text(self.text_in(text_BLd)) + positions_Lw + self.type_embeddings[-1]

    def encode(self, x_BSw: torch.Tensor, attends: Sequence[Attend]) -> torch.Tensor:
        """Embedded tokens through the blocks, each with its attention."""
        *lower, last = attends
        return self.ln_final(recomputed(self.blocks[-1], self.recomputing, self._lower(x_BSw, lower), last))

    def _lower(self, x_BSw: torch.Tensor, attends: Sequence[Attend]) -> torch.Tensor:
        """All blocks but the last."""
        for block, attend in zip(list(self.blocks)[:-1], attends, strict=True):
            x_BSw = recomputed(block, self.recomputing, x_BSw, attend)
        return x_BSw

    def _wanted(self, x_BSw: torch.Tensor, mask_BSS: torch.Tensor, rows_BQ: torch.Tensor) -> torch.Tensor:
        """The last block, of which only these rows are computed."""
        seen_BQS = _take_rows(mask_BSS.expand(len(x_BSw), -1, -1), rows_BQ)
        rows = partial(_take_rows, rows_BQ=rows_BQ)
        return self.ln_final(recomputed(self.blocks[-1], self.recomputing, x_BSw, masked(seen_BQS[:, None]), rows))


def _take_rows(x_BSw: torch.Tensor, rows_BQ: torch.Tensor) -> torch.Tensor:
    return x_BSw.gather(1, rows_BQ[..., None].expand(-1, -1, x_BSw.shape[-1]))


def _to_scale(positions_Lw: torch.Tensor) -> torch.Tensor:
    positions_Lw = positions_Lw.detach()
    return positions_Lw * (POSITION_SCALE / positions_Lw.square().mean().sqrt())
