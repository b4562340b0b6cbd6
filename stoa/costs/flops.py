"""Floating-point operations of a training step, in closed form.

A multiply and an add are two operations. Only products of matrices count; what is elementwise, RoIAlign and the
matching are left out, and so is what activation checkpointing computes again. Of the attention over trajectories, whose
boxes see those of their label alone, all pairs of the packed sequence count, as a dense product would compute them.

Shape legend: B clips of a rank, A clips of all ranks, T frames, P patches of a frame, S tokens of a sequence, Q rows
that are computed of it, N trajectories, K boxes of a frame, M action tokens, L text tokens, G video-side tokens, h
vision width, w text width, d joint width, V vocabulary.
"""

from __future__ import annotations

from typing import NamedTuple

from torch import nn

from stoa.models.cls_encoder import ClsEncoder
from stoa.models.graph import GraphBlock, GraphEncoder
from stoa.models.relations import PAIR_FEATURES
from stoa.models.video_language import VideoLanguageModel
from stoa.objectives.config import ObjectivesConfig
from stoa.objectives.mlm import num_masked


class Flops(NamedTuple):
    """Of one part of a step."""

    forward: float
    backward: float

    @property
    def total(self) -> float:
        return self.forward + self.backward


def flops_per_batch(
    model: VideoLanguageModel, objectives: ObjectivesConfig, size: int, *, world: int = 1
) -> dict[str, Flops]:
    """Operations of a step on one rank, by part: ``video``, ``objects``, ``actions``, ``graph``, ``text``, ``fusion``
    and the losses.

    The backward pass of a product takes two; weights that are not trained and frames, into which no gradient goes, take
    less. Every caption is taken for full, as its tensors are.

    Args:
        model: of which only sizes are read, so it may be on the meta device.
        objectives: which losses there are.
        size: clips of a rank (B).
        world: ranks.
    """
    config = model.config
    parts = {"video": _video(model)}
    if config.objects.num_trajectories:
        parts["objects"] = _objects(model)
    if config.actions.num_tokens:
        parts["actions"] = _actions(model)
    if config.graph.layers:
        parts["graph"] = _graph(model.graph, config.num_frames)
    parts["text"] = _text(model, passes=2 if objectives.mlm else 1)
    parts["fusion"] = _fusion(model, objectives, world)
    parts |= _losses(model, objectives, size, world)
    return {name: Flops(size * part.forward, size * part.backward) for name, part in parts.items()}


def total_flops(parts: dict[str, Flops]) -> float:
    """Of all parts, both passes."""
    return sum(part.total for part in parts.values())


def _product(rows: float, inner: float, columns: float) -> float:
    return 2.0 * rows * inner * columns


def _trained(forward: float) -> Flops:
    return Flops(forward, 2 * forward)


def _sum(parts: list[Flops]) -> Flops:
    return Flops(sum(part.forward for part in parts), sum(part.backward for part in parts))


def _widths(block: nn.Module) -> tuple[int, int]:
    return block.mlp.c_fc.in_features, block.mlp.c_fc.out_features  # type: ignore[union-attr, return-value]


def block_flops(block: nn.Module, S: int, Q: int | None = None, *, seen: int | None = None) -> float:
    """Forward pass of one block over a sequence, of which Q rows (default all) are computed; each compares itself with
    ``seen`` tokens, by default those of the sequence."""
    w, hidden = _widths(block)
    Q = S if Q is None else Q
    projections = _product(Q, w, w) + _product(S, w, 2 * w) + _product(Q, w, w)
    return projections + 2 * _product(Q, w, S if seen is None else seen) + 2 * _product(Q, w, hidden)


def _video(model: VideoLanguageModel) -> Flops:
    tower, T = model.clip.visual, model.config.num_frames
    h, d = tower.proj.shape
    S = 1 + tower.grid_hw[0] * tower.grid_hw[1]
    trained = [next(block.parameters()).requires_grad for block in tower.blocks]
    embeds = tower.conv1.weight.requires_grad
    patches = T * _product(S - 1, tower.conv1.weight[0].numel(), h)
    parts = [Flops(patches, patches * embeds)]
    first_joint = len(tower.blocks) - tower.joint_last_blocks
    for number, block in enumerate(tower.blocks):
        forward = block_flops(block, T * S) if number >= first_joint else T * block_flops(block, S)
        parts.append(Flops(forward, 2 * forward * trained[number]))
    projection = _product(T, h, d)
    parts.append(Flops(projection, projection * (tower.proj.requires_grad + any(trained))))
    return _sum(parts)


def _encoder(encoder: ClsEncoder, S: int, Q: int) -> float:
    *lower, last = encoder.blocks
    h, d = encoder.proj.shape
    return sum(block_flops(block, S) for block in lower) + block_flops(last, S, Q) + _product(Q, h, d)


def _objects(model: VideoLanguageModel) -> Flops:
    config, h = model.config.objects, model.clip.visual.width
    boxes, N, d = model.config.num_frames * config.max_boxes, config.num_trajectories, model.clip.joint_width
    features = 2 * _product(boxes, h, h // 2)
    coordinates, embedded = _product(boxes, 4, h // 2), _product(boxes, h // 2, h)
    trajectories = _encoder(model.trajectories.encoder, N + boxes, N)
    parts = [_trained(features + embedded + trajectories), Flops(coordinates, coordinates)]
    if config.motion:
        coordinates = _product(N, 4, d // 2)
        parts += [Flops(coordinates, coordinates), _trained(_product(N, d // 2, d))]
    if config.relations:
        features = _product(N * N, PAIR_FEATURES, d // 2)
        parts += [Flops(features, features), _trained(_product(N * N, d // 2, d))]
    for _ in range(config.look + config.changes):
        sums = _product(N, boxes, h)
        parts += [Flops(sums, sums), _trained(_product(N, h, d) + _product(N, d, d))]
    return _sum(parts)


def _actions(model: VideoLanguageModel) -> Flops:
    config, h, d, T = model.config, model.clip.visual.width, model.clip.joint_width, model.config.num_frames
    tokens = 1 + model.clip.visual.grid_hw[0] * model.clip.visual.grid_hw[1] + config.num_boxes
    gathered = 2 * T * _product(config.actions.num_tokens, tokens, h)
    said = 2 * _product(config.actions.num_tokens, config.objects.num_trajectories, d) if config.actions.motion else 0.0
    return _trained(gathered + said + config.actions.num_tokens * _encoder(model.actions.encoder, 1 + T, 1))


def _graph(graph: GraphEncoder, T: int) -> Flops:
    config = graph.config
    h, d = graph.proj.in_features, graph.proj.out_features
    P = graph.grid_hw[0] * graph.grid_hw[1]
    S, reach = 1 + P, T if config.reach is None else config.reach
    seen = sum(min(T, frame + reach + 1) - max(0, frame - reach) for frame in range(T))  # pairs of frames
    parts = []
    for block in graph.blocks:
        assert isinstance(block, GraphBlock)
        similar = seen * _product(P, h, P)
        trained = _product(T * S, h, h) + config.global_repeats * block_flops(block.cross_frame, T)
        trained += 4 * _product(T * P, h, h) + 2 * seen * _product(P, h, P)
        parts += [Flops(similar, 0.0), _trained(trained + T * block_flops(block.spatial, S))]
    leaving = T * config.tokens_of_frame(graph.grid_hw)
    mixing = 0.0 if config.residual else _product(leaving, h, h)
    parts.append(_trained(mixing + _product(leaving, h, d) + _product(1, h, d)))
    return _sum(parts)


def _text(model: VideoLanguageModel, passes: int) -> Flops:
    clip, L = model.clip, model.config.max_tokens
    blocks = sum(block_flops(block, L) for block in clip.text_blocks)
    return _trained(passes * (blocks + _product(L, clip.text_width, clip.joint_width)))


def _fusion(model: VideoLanguageModel, objectives: ObjectivesConfig, world: int) -> Flops:
    """All passes; see :meth:`stoa.models.fusion.FusionEncoder.fuse`."""
    fusion, L = model.fusion, model.config.max_tokens
    G = sum(fusion.group_sizes.values())
    w, d = model.clip.text_width, model.clip.joint_width
    matches, causal = bool(objectives.vtm), model.config.match_by == "likelihood"
    others = [(L, num_masked(L))] if objectives.mlm else []
    if objectives.plm and not objectives.plm_in_vtm(model.config.match_by):
        others += [(L if objectives.plm_form == "one_pass" else 2 * L, L - 1)]
    others += [(L, 2)] if objectives.answer else []
    *lower, last = fusion.blocks
    forward = 0.0
    for text, rows in others + [(L, 2)] * (3 * (matches and not causal)):
        S = G + text
        forward += 0.0 if d == w else _product(S, d, w)
        forward += sum(block_flops(block, S) for block in lower) + block_flops(last, S, rows)
    clips = matches * (1 if world == 1 else 2)  # once for all texts; of all ranks' clips two
    if matches and causal:  # the start token with the clip
        forward += 0.0 if d == w else _product(clips * G + 3 * L, d, w)
        forward += clips * (sum(block_flops(block, G + 1) for block in lower) + block_flops(last, G + 1, 2))
        forward += 3 * sum(block_flops(block, L - 1, seen=G + L) for block in fusion.blocks)
    if model.config.grounded_groups:
        forward += _grounding(model, clips + len(others), 3 * matches + len(others))
    return _trained(forward)


def _grounding(model: VideoLanguageModel, clips: int, texts: int) -> float:
    """Forward pass of what is compared of clips, and of texts that are compared with it."""
    config, d = model.config, model.clip.joint_width
    has_head = {"objects": config.objects.word_head, "actions": config.actions.word_head}
    sizes = {name: config.group_sizes[name] for name in config.grounded_groups}
    meanings = sum(size for name, size in sizes.items() if has_head[name])
    return clips * _product(meanings, d, d) + 2 * texts * _product(config.max_tokens, d, sum(sizes.values()))


def _losses(model: VideoLanguageModel, objectives: ObjectivesConfig, size: int, world: int) -> dict[str, Flops]:
    """Heads and scores."""
    columns = size * world  # clips of all ranks
    mapped = 1 + world if objectives.align_loss == "nce_both" else 1  # by word heads: the own clips, and those of all
    w, d, L = model.clip.text_width, model.clip.joint_width, model.config.max_tokens
    V = model.lm_head.bias.shape[0]
    parts = {}
    scores = _trained(2 * _product(1, d, columns))
    if objectives.vtc:
        parts["vtc"] = scores
    if objectives.vtm:
        words = L - 1 if model.config.match_by == "likelihood" else 0
        match = _trained(3 * (_product(1, 2 * w, 2) + _product(words, w, w + V)))
        parts["vtm"] = match if objectives.vtc else _sum([match, Flops(scores.forward, 0.0)])
    for name, rows in (("mlm", num_masked(L)), ("plm", L - 1)):
        if getattr(objectives, name) and not (name == "plm" and objectives.plm_in_vtm(model.config.match_by)):
            parts[name] = _trained(_product(rows, w, w + V))
    if objectives.ota:
        N, word = model.config.objects.num_trajectories, _product(model.config.objects.num_trajectories, d, d)
        own = _trained(mapped * word) if model.config.objects.word_head else Flops(0.0, 0.0)
        parts["ota"] = _sum([own, _alignment(objectives, N, d, L, columns)])
    if objectives.asp:
        M = model.config.actions.num_tokens
        own = _trained(mapped * _product(M, d, d)) if model.config.actions.word_head else Flops(0.0, 0.0)
        parts["asp"] = _sum([own, _alignment(objectives, M, d, L, columns)])
    if objectives.answer:
        parts["answer"] = _trained(_product(1, 2 * w, 2 * w) + _product(1, 2 * w, model.config.num_answers))
    return parts


def _alignment(objectives: ObjectivesConfig, rows: int, d: int, L: int, columns: int) -> Flops:
    """The match, through which no gradient goes, and what ``nce`` compares; its words have none."""
    words = max(1, L - 1)
    compared = _product(rows, d, words)
    if objectives.align_loss not in ("nce", "nce_both"):
        return Flops(compared, 0.0)
    of_words = columns * compared if objectives.align_loss == "nce_both" else 0.0
    contrasted = compared + columns * compared + of_words
    return Flops(compared + contrasted, contrasted)
