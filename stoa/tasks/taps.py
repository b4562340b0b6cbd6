"""What a model computes on the way and does not give out: where its action tokens look, and the edges of its graph.

The modules' own inputs are caught as they run; from these the weights are computed by the modules' own functions.

Shape legend: B clips (here 1), T frames, P patches, S = P + 1 tokens of a frame, K boxes per frame, M action tokens,
Y, X rows and columns of the grid of patches, H heads, D head width, E edges of a patch.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import nn

from stoa.batch import VideoTextBatch
from stoa.models.actions import ActionEncoder, gathering_weights
from stoa.models.graph import GraphBlock
from stoa.models.graph_attention import Edges, density, edge_weights
from stoa.models.video_language import VideoFeatures, VideoLanguageModel
from stoa.tasks.explanation import Graph

EDGES = 12
"""Edges of a patch that are kept, the strongest ones."""


class Seen(NamedTuple):
    """A clip as the model sees it.

    Attributes:
        video: its features.
        patches_MTYX: float32, what each action token takes of each patch; M is 0 without action tokens.
        boxes_MTK: float32, what it takes of each box.
        graph: ``None`` without one.
    """

    video: VideoFeatures
    patches_MTYX: np.ndarray
    boxes_MTK: np.ndarray
    graph: Graph | None


def seen_of_clip(model: VideoLanguageModel, batch: VideoTextBatch) -> Seen:
    """Encode one clip, and look on.

    Args:
        model: the model.
        batch: of one clip.
    """
    assert len(batch) == 1
    grid_hw = model.clip.visual.grid_hw
    with contextlib.ExitStack() as stack:
        actions = stack.enter_context(calls(model.actions)) if model.config.actions.num_tokens else []
        block = _last_block(model)
        blocks = stack.enter_context(calls(block)) if block is not None else []
        attended = stack.enter_context(calls(block.graph)) if block is not None else []
        video = model.encode_video(batch)
    T = model.config.num_frames
    patches_MTYX, boxes_MTK = np.zeros((0, T, *grid_hw), np.float32), np.zeros((0, T, 0), np.float32)
    if actions:
        patches_MTYX, boxes_MTK = _looks(model.actions, actions[0], grid_hw)
    graph = None
    if block is not None:
        edges = blocks[0].output[1]
        graph = _strongest(edges, attention_along(block, edges, attended[0].inputs[0]), block, grid_hw)
    return Seen(video, patches_MTYX, boxes_MTK, graph)


class Call(NamedTuple):
    """One call of a module."""

    inputs: tuple[Any, ...]
    output: Any


@contextlib.contextmanager
def calls(module: nn.Module) -> Iterator[list[Call]]:
    """The calls of a module while the block runs."""
    caught: list[Call] = []
    handle = module.register_forward_hook(lambda _, inputs, output: caught.append(Call(inputs, output)))
    try:
        yield caught
    finally:
        handle.remove()


def _last_block(model: VideoLanguageModel) -> GraphBlock | None:
    if not model.config.graph.layers:
        return None
    block = model.graph.blocks[-1]
    assert isinstance(block, GraphBlock)
    return block


def _looks(actions: ActionEncoder, call: Call, grid_hw: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    tokens_BTSh, boxes = call.inputs
    weights_MTS = gathering_weights(actions.queries, tokens_BTSh, boxes)[0].transpose(0, 1).float()
    S = tokens_BTSh.shape[2]
    patches_MTYX = weights_MTS[..., 1:S].unflatten(-1, grid_hw)
    return patches_MTYX.cpu().numpy(), weights_MTS[..., S:].cpu().numpy()


def attention_along(block: GraphBlock, edges: list[Edges], x_BSh: torch.Tensor) -> list[torch.Tensor]:
    """Weights of the edges, of each frame (B, H, P, K).

    Args:
        block: of a graph.
        edges: that it has made.
        x_BSh: what its attention reads: the patches of all frames in one sequence.
    """
    weights: list[torch.Tensor] = []

    def keep(q_BHND: torch.Tensor, k_BHND: torch.Tensor, v_BHND: torch.Tensor) -> torch.Tensor:
        q, k = (x.unflatten(2, (len(edges), -1)) for x in (q_BHND, k_BHND))
        weights.extend(edge_weights(q, k, edges, block.config.edge_mode))
        return v_BHND

    block.graph(x_BSh, keep)
    return weights


def _strongest(edges: list[Edges], weights: list[torch.Tensor], block: GraphBlock, grid_hw: tuple[int, int]) -> Graph:
    P = grid_hw[0] * grid_hw[1]
    T = len(edges)
    targets_TPE = np.full((T, P, EDGES), -1, dtype=np.int32)
    weights_TPE, cosines_TPE = (np.zeros((T, P, EDGES), dtype=np.float32) for _ in range(2))
    for t, (of_frame, weight_BHPK) in enumerate(zip(edges, weights, strict=True)):
        first = of_frame.seen.start * P
        kept_PK, weight_PK = of_frame.kept_BPK[0].clone(), weight_BHPK[0].float().mean(dim=0)
        places = torch.arange(P, device=kept_PK.device)
        kept_PK[places, places + t * P - first] = False
        best = weight_PK.masked_fill(~kept_PK, -1.0).topk(min(EDGES, kept_PK.shape[1]), dim=1)
        n = best.values.shape[1]
        there_PE = (best.values >= 0).cpu().numpy()
        targets_TPE[t, :, :n] = np.where(there_PE, (best.indices + first).cpu().numpy(), -1)
        weights_TPE[t, :, :n] = np.where(there_PE, best.values.cpu().numpy(), 0)
        cosines = of_frame.similarity_BPK[0].float().gather(1, best.indices).cpu().numpy()
        cosines_TPE[t, :, :n] = np.where(there_PE, cosines, 0)
    config = block.config
    share = float(density(edges)[0])
    return Graph(grid_hw, targets_TPE, weights_TPE, cosines_TPE, share, config.threshold, config.reach)
