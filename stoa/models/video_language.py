"""The assembled video-language model: towers, objects, actions, graph, fusion encoder, heads.

Shape legend: B clips, T frames, P patches, N trajectories, M action tokens, G video-side tokens, L text tokens,
V vocabulary (of the language head), Q wanted rows, h vision width, w text width, d joint width. Where texts are
grounded: C clips, N texts, K tokens of the groups that they are compared with.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import NamedTuple

import torch
from torch import nn
from torch.nn import functional as F

from stoa.batch import VideoTextBatch
from stoa.models.actions import ActionEncoder, ActionMotion, Moves
from stoa.models.causal_texts import CausalPass
from stoa.models.clip import Clip
from stoa.models.config import (
    RECOMPUTABLE,
    ActionConfig,
    GraphConfig,
    ModelConfig,
    ObjectConfig,
    Recomputable,
    recomputed_parts,
)
from stoa.models.fusion import FusionEncoder, FusionPass
from stoa.models.graph import GraphEncoder
from stoa.models.grounding import Grounding, Meanings
from stoa.models.looks import ChangeEncoder, LookEncoder
from stoa.models.motion import Levers, Lines, MotionEncoder, fit_lines, levers_of
from stoa.models.objects import Boxes, ObjectEncoder, TrajectoryEncoder
from stoa.models.relations import RelationEncoder
from stoa.parts import part

FRAMEWISE = ("frames", "graph")
"""Groups of video-side tokens that hold the same number of tokens for every frame, frame by frame."""


class VideoFeatures(NamedTuple):
    """The video side of a batch.

    Attributes:
        tokens_BGd: all groups in the joint space, in the order of ``ModelConfig.group_sizes``.
        valid_BG: bool, tokens that others may see: all but the trajectories a clip lacks.
        pooled_Bd: the mean of the frames, ``v_[CLS]``; with a graph what this adds, nothing at first.
        trajectory_labels_BN: int64, detector label of each trajectory, -1 for none; N is 0 without objects.
        graph_density_B: fp32, share of the possible edges that the graph has; 0 without one.
    """

    tokens_BGd: torch.Tensor
    valid_BG: torch.Tensor
    pooled_Bd: torch.Tensor
    trajectory_labels_BN: torch.Tensor
    graph_density_B: torch.Tensor


class TextFeatures(NamedTuple):
    """The text side of a batch.

    Attributes:
        tokens_BLd: in the joint space.
        pooled_Bd: the output at the end token.
    """

    tokens_BLd: torch.Tensor
    pooled_Bd: torch.Tensor


class VideoLanguageModel(nn.Module):
    """CLIP towers, object, action and graph modules, the fusion encoder on ``[v, v_cls, o, x, graph, t]``, a language
    head, a matching head and perhaps an answer head. ``look``, ``motion``, ``relations`` and ``changes``, if there are
    any, are added to trajectory tokens, and ``action_motion`` to action tokens; they are compared with words through
    ``word_head`` and ``verb_head``, and ``grounding`` gives words what they are closest to.

    Args:
        config: see :class:`ModelConfig`.
        used_token_ids: with ``lm_vocab: used``, the token ids the language head can predict.

    Raises:
        ValueError: ``max_tokens`` exceeds the text tower's context, a tap or a depth does not fit the towers, or
            ``used_token_ids`` is missing.
    """

    def __init__(self, config: ModelConfig, *, used_token_ids: Sequence[int] | None = None) -> None:
        super().__init__()
        self.config = config
        self.clip = Clip(config.backbone, joint_last_blocks=config.joint_last_blocks)
        vision = self.clip.visual
        if config.max_tokens > self.clip.context_length:
            raise ValueError(
                f"model.max_tokens is {config.max_tokens}, more than the {self.clip.context_length} positions of "
                f"{config.backbone.name}; lower it"
            )
        depth = len(vision.blocks)
        for name, value in (
            ("objects.tap_from_top", config.objects.tap_from_top),
            ("actions.tap_from_top", config.actions.tap_from_top),
            ("graph.tap_from_top", config.graph.tap_from_top),
            ("joint_last_blocks", config.joint_last_blocks),
        ):
            if not 0 <= value <= depth:
                raise ValueError(
                    f"model.{name} is {value}; {config.backbone.name} has {depth} vision blocks, expected 0 to {depth}"
                )
        if config.objects.num_trajectories:
            self.objects = ObjectEncoder(
                config.objects, width=vision.width, grid_hw=vision.grid_hw, num_frames=config.num_frames
            )
            self.trajectories = TrajectoryEncoder(config.objects, vision)
        if config.actions.num_tokens:
            self.actions = ActionEncoder(config.actions, vision, num_frames=config.num_frames)
        if config.graph.layers:
            self.graph = GraphEncoder(config.graph, vision, num_frames=config.num_frames)
        w = self.clip.text_width
        self.fusion = FusionEncoder(
            config.fusion,
            group_sizes=config.group_sizes,
            text_blocks=self.clip.text_blocks,
            text_positions_Lw=self.clip.positional_embedding[: config.max_tokens],
            final_norm=self.clip.ln_final,
            joint_width=self.clip.joint_width,
        )
        self.mask_token = nn.Parameter(0.01 * torch.randn(w))
        self.lm_head = LanguageHead(w, self.clip.token_embedding.num_embeddings, _predicted_ids(config, used_token_ids))
        self.lm_head.start_from(self.clip.token_embedding.weight)
        self.match_head = nn.Linear(2 * w, 2)
        if config.match_by == "likelihood":
            self.match_scale = nn.Parameter(torch.full((1,), 0.5))
        has_word_head = config.objects.num_trajectories and config.objects.word_head
        self.word_head = _identity_linear(self.clip.joint_width) if has_word_head else nn.Identity()
        has_verb_head = config.actions.num_tokens and config.actions.word_head
        self.verb_head = _identity_linear(self.clip.joint_width) if has_verb_head else nn.Identity()
        if config.grounded_groups:
            self.grounding = Grounding()
        if config.num_answers:
            self.answer_head = nn.Sequential(nn.Linear(2 * w, 2 * w), nn.GELU(), nn.Linear(2 * w, config.num_answers))
        if config.objects.num_trajectories and config.objects.motion:
            self.motion = MotionEncoder(self.clip.joint_width)
        if config.objects.num_trajectories and config.objects.relations:
            self.relations = RelationEncoder(self.clip.joint_width)
        if config.objects.num_trajectories and config.objects.changes:
            self.changes = ChangeEncoder(vision.width, self.clip.joint_width)
        if config.actions.num_tokens and config.actions.motion:
            self.action_motion = ActionMotion(config.actions.num_tokens, self.clip.joint_width)
        if config.objects.num_trajectories and config.objects.look:
            self.look = LookEncoder(vision.width, self.clip.joint_width)
        if config.activation_checkpointing != "auto":
            self.recompute(recomputed_parts(config.activation_checkpointing))

    def recompute(self, parts: Collection[Recomputable]) -> None:
        """Keep no activations of these parts, and those of the others."""
        self.clip.recompute("towers" in parts)
        self.fusion.recomputing = "fusion" in parts
        if self.config.graph.layers:
            self.graph.recomputing = "graph" in parts

    @property
    def recomputed(self) -> tuple[Recomputable, ...]:
        """Parts whose activations are not kept."""
        graph = bool(self.config.graph.layers) and self.graph.recomputing
        on = {"towers": self.clip.visual.recomputing, "graph": graph, "fusion": self.fusion.recomputing}
        return tuple(part for part in RECOMPUTABLE if on[part])

    def start_from_towers(self) -> None:
        """Copy the towers' weights into the encoders that start from them; for towers that were loaded since."""
        clip = self.clip
        self.fusion.start_from(clip.text_blocks, clip.positional_embedding[: self.config.max_tokens], clip.ln_final)
        self.lm_head.start_from(clip.token_embedding.weight)
        if self.config.objects.num_trajectories:
            self.trajectories.encoder.start_from(clip.visual)
        if self.config.actions.num_tokens:
            self.actions.encoder.start_from(clip.visual)
        if self.config.graph.layers:
            self.graph.start_from(clip.visual)

    def encode_video(self, batch: VideoTextBatch) -> VideoFeatures:
        """Frames and boxes -> video-side tokens: one [CLS] a frame, their mean, trajectories, actions, graph.

        Raises:
            ValueError: the clips have another number of frames than the model.
        """
        config, depth = self.config, len(self.clip.visual.blocks)
        if batch.frames_BTCHW.shape[1] != config.num_frames:
            raise ValueError(
                f"batch.frames_BTCHW has {batch.frames_BTCHW.shape[1]} frames a clip, and the model is of "
                f"{config.num_frames}; stoa.tasks.trained.resized makes one of other frames from it"
            )
        readers: dict[str, ObjectConfig | ActionConfig | GraphConfig]
        readers = {"objects": config.objects, "actions": config.actions, "graph": config.graph}
        taps = {
            name: depth - reader.tap_from_top for name, reader in readers.items() if name in self.fusion.group_sizes
        }
        with part("video"):
            frames_BTd, tapped = self.clip.encode_frames(batch.frames_BTCHW, frozenset(taps.values()))
        B, T = frames_BTd.shape[:2]
        tokens_BTSh = {
            name: (tapped[tap].detach() if readers[name].detach_tap else tapped[tap]).unflatten(0, (B, T))
            for name, tap in taps.items()
        }
        pooled_Bd, density_B = frames_BTd.mean(dim=1), frames_BTd.new_zeros(B, dtype=torch.float32)
        if "graph" in taps:
            with part("graph"):
                graph = self.graph(tokens_BTSh["graph"])
            pooled_Bd, density_B = pooled_Bd + graph.pooled_Bd, graph.density_B
        groups = [frames_BTd, pooled_Bd[:, None]]
        valid = [batch.text_mask_BL.new_ones(B, T + 1)]
        labels_BN, boxes, moves = batch.labels_BTK.new_empty(B, 0), None, None
        if "objects" in taps:
            with part("objects"):
                tapped_BTSh = tokens_BTSh["objects"]
                boxes = self.objects(tapped_BTSh.flatten(0, 1)[:, 1:], batch)
                frames_Bh = tapped_BTSh[:, :, 0].mean(dim=1) if config.objects.residual else None
                tokens_BNd, labels_BN = self.trajectories(boxes, batch.labels_BTK, batch.scores_BTK, frames_Bh)
                if config.objects.look or config.objects.tells_motion:
                    labels_BTK = batch.labels_BTK.where(boxes.valid_BTK, -1)
                    levers = levers_of(batch.scores_BTK, labels_BTK, labels_BN)
                if config.objects.look:
                    tokens_BNd = tokens_BNd + self.look(boxes.pooled_BTKh, levers)
                if config.objects.tells_motion:
                    lines = fit_lines(batch.boxes_BTK4, labels_BTK, levers)
                    said_BNd = self._what_they_do(boxes, labels_BN, levers, lines)
                    tokens_BNd = tokens_BNd + said_BNd
                    moves = Moves(said_BNd, labels_BN >= 0) if config.actions.motion else None
            groups.append(tokens_BNd)
            valid.append(labels_BN >= 0)
        if "actions" in taps:
            with part("actions"):
                tokens_BMd = self.actions(tokens_BTSh["actions"], boxes)
                groups.append(tokens_BMd if moves is None else tokens_BMd + self.action_motion(moves))
            valid.append(valid[0].new_ones(groups[-1].shape[:2]))
        if "graph" in taps:
            groups.append(graph.tokens_BRd)
            valid.append(valid[0].new_ones(groups[-1].shape[:2]))
        return VideoFeatures(torch.cat(groups, dim=1), torch.cat(valid, dim=1), pooled_Bd, labels_BN, density_B)

    def _what_they_do(self, boxes: Boxes, labels_BN: torch.Tensor, levers: Levers, lines: Lines) -> torch.Tensor:
        """What is added to the tokens of trajectories (B, N, d); of a fresh one hardly anything else says it."""
        config = self.config.objects
        said = []
        if config.motion:
            said.append(self.motion(lines))
        if config.relations:
            said.append(self.relations(lines, labels_BN))
        if config.changes:
            said.append(self.changes(boxes.pooled_BTKh, levers))
        return torch.stack(said).sum(dim=0)

    def group(self, video: VideoFeatures, name: str) -> torch.Tensor:
        """Tokens of one video-side group: ``frames``, ``pooled``, ``objects``, ``actions`` or ``graph``."""
        return video.tokens_BGd[:, self.fusion.slot(name)]

    def encode_text(self, tokens_BL: torch.Tensor, text_mask_BL: torch.Tensor) -> TextFeatures:
        """Encode captions."""
        with part("text"):
            tokens_BLd = self.clip.encode_text(self.clip.token_embedding(tokens_BL))
        return TextFeatures(tokens_BLd, select_rows(tokens_BLd, end_positions(text_mask_BL)))

    def encode_text_twice(
        self, tokens_BL: torch.Tensor, text_mask_BL: torch.Tensor, hidden_BL: torch.Tensor
    ) -> tuple[TextFeatures, torch.Tensor]:
        """Encode captions, and the same ones with some of their words hidden, in one batch.

        Where ``hidden_BL`` (bool) is set the learned mask vector replaces the word at the input of the text tower, so
        that no output knows it.

        Returns:
            (features of the captions, text tokens (B, L, d) of those with hidden words)
        """
        with part("text"):
            words_BLw = self.clip.token_embedding(tokens_BL)
            hidden_BLw = torch.where(hidden_BL[..., None], self.mask_token, words_BLw)
            whole_BLd, rest_BLd = self.clip.encode_text(torch.cat([words_BLw, hidden_BLw])).chunk(2)
        return TextFeatures(whole_BLd, select_rows(whole_BLd, end_positions(text_mask_BL))), rest_BLd

    def meanings(
        self, video_CGd: torch.Tensor, valid_CG: torch.Tensor, clip_N: torch.Tensor | None = None
    ) -> Meanings | None:
        """What words may mean of their clip, of the groups of ``ModelConfig.grounded_groups``; None without any.

        Args:
            video_CGd: joint-space tokens of all groups, in order.
            valid_CG: bool, tokens that others may see.
            clip_N: int64, the clip of each text; default each its own.
        """
        if not self.config.grounded_groups:
            return None
        with part("fusion"):
            heads = {"objects": self.word_head, "actions": self.verb_head}
            groups = [(self.fusion.slot(name), heads[name]) for name in self.config.grounded_groups]
            tokens_CKd, valid_CK = (torch.cat([x[:, slot] for slot, _ in groups], dim=1) for x in (video_CGd, valid_CG))
            compared_CKd = torch.cat([head(video_CGd[:, slot]) for slot, head in groups], dim=1)
            return Meanings.of_clips(tokens_CKd, compared_CKd, valid_CK, clip_N)

    def grounded(
        self, text_NLd: torch.Tensor, meanings: Meanings | None, positions_NL: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Joint-space text tokens (N, L, d) as they enter the fusion encoder: with what they mean, if anything.

        Args:
            meanings: of :meth:`meanings`.
            positions_NL: int64, text position of each token; default 0, 1, ...
        """
        if meanings is None:
            return text_NLd
        if positions_NL is None:
            positions_NL = torch.arange(text_NLd.shape[1], device=text_NLd.device)[None]
        with part("fusion"):
            grounded_NLd: torch.Tensor = self.grounding(text_NLd, positions_NL == 0, meanings)
        return grounded_NLd

    def text_pass(
        self,
        video_BGd: torch.Tensor,
        text_BLd: torch.Tensor,
        mask_BSS: torch.Tensor,
        wanted_BQ: torch.Tensor,
        positions_L: torch.Tensor | None = None,
    ) -> FusionPass:
        """For fusion outputs (B, Q, w) at the wanted text tokens."""
        return FusionPass(video_BGd, text_BLd, mask_BSS, video_BGd.shape[1] + wanted_BQ, positions_L)

    def pair_pass(
        self, video_BGd: torch.Tensor, text_BLd: torch.Tensor, mask_BSS: torch.Tensor, text_mask_BL: torch.Tensor
    ) -> FusionPass:
        """For ``v_o`` and ``t_o`` (B, 2, w): the fusion outputs at the pooled slot and at the end token."""
        end_B = video_BGd.shape[1] + end_positions(text_mask_BL)
        pooled_B = torch.full_like(end_B, self.fusion.slot("pooled").start)
        return FusionPass(video_BGd, text_BLd, mask_BSS, torch.stack([pooled_B, end_B], dim=1))

    def fused(self, one: FusionPass | CausalPass) -> torch.Tensor:
        """The wanted rows (B, Q, w) of a pass that is alone; see :meth:`FusionEncoder.fuse` for several."""
        return self.fusion.fuse([one])[0]

    def language_table(self) -> torch.Tensor:
        """Rows (V, w) of the token table that the language head predicts. Take them once a step: of a ``used``
        vocabulary each time costs a gradient as large as the whole table."""
        return self.lm_head.table(self.clip.token_embedding.weight)

    def language_logits(self, rows_w: torch.Tensor, table_Vw: torch.Tensor) -> torch.Tensor:
        """Logits (..., V) at the given fused rows (..., w), with :meth:`language_table`."""
        return self.lm_head(rows_w, table_Vw)


class LanguageHead(nn.Module):
    """Linear-GELU-LayerNorm, then the tied token table and a bias.

    Args:
        width: of the rows.
        num_ids: BPE ids in all.
        used_token_ids: those to predict; none is all.
    """

    used_ids: torch.Tensor | None
    class_of_id: torch.Tensor

    def __init__(self, width: int, num_ids: int, used_token_ids: Sequence[int] | None) -> None:
        super().__init__()
        size = num_ids if used_token_ids is None else len(used_token_ids)
        self.dense = nn.Linear(width, width)
        self.norm = nn.LayerNorm(width)
        self.bias = nn.Parameter(torch.zeros(size))
        if used_token_ids is not None:
            if not 0 <= min(used_token_ids) <= max(used_token_ids) < num_ids:
                raise ValueError(
                    f"used_token_ids go from {min(used_token_ids)} to {max(used_token_ids)}; there are {num_ids} ids"
                )
            used = torch.tensor(used_token_ids)
            class_of_id = torch.full((max(used_token_ids) + 1,), -1)
            class_of_id[used] = torch.arange(size)
            self.register_buffer("used_ids", used, persistent=False)
            self.register_buffer("class_of_id", class_of_id, persistent=False)
        else:
            self.used_ids = None

    @torch.no_grad()
    def start_from(self, token_table: torch.Tensor) -> None:
        """Logits of unit variance, however wide the table and large its rows."""
        self.norm.weight.fill_(1 / self.table(token_table).square().sum(dim=-1).mean().sqrt())

    def table(self, token_table: torch.Tensor) -> torch.Tensor:
        """The rows (V, w) to predict, of a table with a row for every BPE id."""
        return token_table if self.used_ids is None else token_table[self.used_ids]

    def forward(self, rows_w: torch.Tensor, table_Vw: torch.Tensor) -> torch.Tensor:
        return F.linear(self.norm(F.gelu(self.dense(rows_w))), table_Vw, self.bias)

    def targets(self, token_ids: torch.Tensor) -> torch.Tensor:
        """Classes of BPE ids; -1 for an id outside the used vocabulary."""
        if self.used_ids is None:
            return token_ids
        inside = token_ids < len(self.class_of_id)
        return torch.where(inside, self.class_of_id[token_ids * inside], -1)


def _identity_linear(width: int) -> nn.Linear:
    # No draw: what is made after it starts as without it.
    linear = nn.utils.skip_init(nn.Linear, width, width, device=torch.get_default_device())
    nn.init.eye_(linear.weight)
    nn.init.zeros_(linear.bias)
    return linear


def _predicted_ids(config: ModelConfig, used_token_ids: Sequence[int] | None) -> Sequence[int] | None:
    if config.lm_vocab == "full":
        return None
    if not used_token_ids:
        raise ValueError(
            "model.lm_vocab is 'used' but no used_token_ids were given; pass those of the training captions"
        )
    return used_token_ids


def end_positions(text_mask_BL: torch.Tensor) -> torch.Tensor:
    """Position of the end token (B,)."""
    return text_mask_BL.sum(dim=-1) - 1


def select_rows(x_BSw: torch.Tensor, position_B: torch.Tensor) -> torch.Tensor:
    """``x[b, position[b]]``, (B, w)."""
    return x_BSw.gather(1, position_B[:, None, None].expand(-1, 1, x_BSw.shape[-1])).squeeze(1)
