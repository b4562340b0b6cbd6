"""Attention over the patches of a video that are close in time and alike (STGT).

Only the frames that may see each other are compared, so time and memory grow linearly with the frames.

Shape legend: B clips, T frames, P patches of a frame, K patches of the frames that one sees, H heads, D head width,
h model width.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch.nn import functional as F

from stoa.models.config import EdgeMode
from stoa.models.layers import at_least_fp32, attention, exact_product


class Edges(NamedTuple):
    """Edges from the patches of one frame to those of the frames that it sees.

    Attributes:
        seen: these frames.
        similarity_BPK: cosines, at least fp32.
        kept_BPK: bool, the edges that there are. A patch always has one to itself.
    """

    seen: slice
    similarity_BPK: torch.Tensor
    kept_BPK: torch.Tensor


@torch.no_grad()
def band_edges(patches_BTPh: torch.Tensor, *, reach: int | None, threshold: float) -> list[Edges]:
    """The graph of a video, through which no gradient flows; one entry a frame.

    Args:
        patches_BTPh: its nodes.
        reach: frames on either side that a patch sees; 0 its own alone, none all.
        threshold: least cosine of an edge. Above 1 the edges of patches to themselves are left.
    """
    nodes_BTPh = F.normalize(at_least_fp32(patches_BTPh), dim=-1)
    T, P = nodes_BTPh.shape[1:3]
    reach = T if reach is None else reach
    edges, places = [], torch.arange(P, device=nodes_BTPh.device)
    for frame in range(T):
        seen = slice(max(0, frame - reach), min(T, frame + reach + 1))
        similarity_BPK = exact_product(nodes_BTPh[:, frame], nodes_BTPh[:, seen].flatten(1, 2).transpose(1, 2))
        columns_K = torch.arange(similarity_BPK.shape[2], device=places.device)
        own_PK = places[:, None] + (frame - seen.start) * P == columns_K
        edges.append(Edges(seen, similarity_BPK, (similarity_BPK >= threshold) | own_PK))
    return edges


def density(edges: Sequence[Edges]) -> torch.Tensor:
    """Share of the edges that there would be if all patches were alike, (B,), fp32."""
    kept_B = torch.stack([e.kept_BPK.sum(dim=(1, 2)) for e in edges]).sum(dim=0)
    return kept_B.float() / sum(e.kept_BPK[0].numel() for e in edges)


def graph_attention(
    q_BHTPD: torch.Tensor, k_BHTPD: torch.Tensor, v_BHTPD: torch.Tensor, edges: Sequence[Edges], mode: EdgeMode
) -> torch.Tensor:
    """Attention along the edges of a graph of patches (STGT).

    Args:
        q_BHTPD, k_BHTPD, v_BHTPD: queries, keys and values of every patch.
        edges: of each frame, see :func:`band_edges`.
        mode: what the cosine of an edge does. ``multiply``: the logit is multiplied by it, as released, so that a
            negative logit gains from unlikeness; ``log_bias``: its logarithm is added; ``mask_only``: nothing.

    Returns:
        (B, H, T, P, D).
    """
    q_BHTPD = q_BHTPD / math.sqrt(q_BHTPD.shape[-1])
    # Frames apart and joined again: the gradient of a slice of all frames would be as large as all of them, T times.
    queries, keys, values = q_BHTPD.unbind(2), k_BHTPD.unbind(2), v_BHTPD.unbind(2)
    out = []
    for q_BHPD, of_frame in zip(queries, edges, strict=True):
        k_BHKD, v_BHKD = (torch.cat(x[of_frame.seen], dim=2) for x in (keys, values))
        bias_B1PK = _bias(of_frame, mode).to(q_BHPD.dtype)
        if mode == "multiply":
            out.append(_multiplied(q_BHPD, k_BHKD, bias_B1PK, of_frame).softmax(dim=-1) @ v_BHKD)
        else:
            out.append(attention(q_BHPD, k_BHKD, v_BHKD, attn_mask=bias_B1PK, scale=1.0))
    return torch.stack(out, dim=2)


@torch.no_grad()
def edge_weights(
    q_BHTPD: torch.Tensor, k_BHTPD: torch.Tensor, edges: Sequence[Edges], mode: EdgeMode
) -> list[torch.Tensor]:
    """What :func:`graph_attention` multiplies the values with: of each frame (B, H, P, K), at least fp32, 0 where there
    is no edge."""
    q_BHTPD, k_BHTPD = at_least_fp32(q_BHTPD) / math.sqrt(q_BHTPD.shape[-1]), at_least_fp32(k_BHTPD)
    out = []
    for frame, of_frame in enumerate(edges):
        q_BHPD, k_BHKD = q_BHTPD[:, :, frame], k_BHTPD[:, :, of_frame.seen].flatten(2, 3)
        bias_B1PK = _bias(of_frame, mode).to(q_BHPD.dtype)
        if mode == "multiply":
            logits_BHPK = _multiplied(q_BHPD, k_BHKD, bias_B1PK, of_frame)
        else:
            logits_BHPK = q_BHPD @ k_BHKD.transpose(2, 3) + bias_B1PK
        out.append(logits_BHPK.softmax(dim=-1))
    return out


def _bias(edges: Edges, mode: EdgeMode) -> torch.Tensor:
    """(B, 1, P, K) to add to logits."""
    similarity_BPK = edges.similarity_BPK
    bias_BPK = torch.zeros_like(similarity_BPK).masked_fill_(~edges.kept_BPK, -torch.inf)
    if mode == "log_bias":
        least = torch.finfo(similarity_BPK.dtype).tiny  # a threshold may let cosines below 0 through
        bias_BPK += similarity_BPK.clamp(min=least).log()
    return bias_BPK[:, None]


def _multiplied(q_BHPD: torch.Tensor, k_BHKD: torch.Tensor, bias_B1PK: torch.Tensor, edges: Edges) -> torch.Tensor:
    weight_B1PK = edges.similarity_BPK[:, None].to(q_BHPD.dtype)
    return torch.addcmul(bias_B1PK, q_BHPD @ k_BHKD.transpose(2, 3), weight_B1PK)
