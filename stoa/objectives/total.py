"""The objective: every loss with its weight."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import nn

from stoa.batch import VideoTextBatch
from stoa.models.fusion import FusionPass
from stoa.models.incremental import PlmForm
from stoa.models.video_language import TextFeatures, VideoFeatures, VideoLanguageModel
from stoa.objectives import answer, mlm, plm, vtm
from stoa.objectives.alignment import AlignLoss, asp_loss, ota_loss
from stoa.objectives.cached import encode_in_chunks
from stoa.objectives.csal import CsalConfig
from stoa.objectives.matching import NullToken
from stoa.objectives.plm import Prefix
from stoa.objectives.random import Stream, uniform
from stoa.objectives.vtc import Similarities, csal_loss, similarities, temperature, vtc_loss
from stoa.parts import part

PRETRAINING_LOSSES = ("vtc", "vtm", "mlm", "plm", "ota", "asp")
LOSSES = (*PRETRAINING_LOSSES, "answer")


@dataclass(frozen=True, kw_only=True)
class ObjectivesConfig:
    """Weights of the losses (0 leaves a loss out) and their forms.

    Attributes:
        vtc: video-text contrast.
        vtm: video-text matching.
        mlm: masked words.
        plm: the next word of a caption or an answer.
        ota: trajectories and the nouns that they are matched to.
        asp: action tokens and the verbs that they are matched to.
        answer: the choice of an answer, of question answering alone.
        vtc_smoothing: share of VTC's target that is spread over all pairs.
        csal: the target of VTC's second stage.
        vtm_hard_share: share of VTM's negatives that are drawn by their scores, the others being any other clips.
        vtm_ramp_steps: optimiser steps over which that share grows from 0. A fusion encoder that starts with hard
            negatives alone may not learn to match at all.
        mlm_kept_share: share of MLM's words that are left in place. Such a word is easy to tell if the text tower lets
            it through, and nothing else makes a tower do so with words that no video of its training tells apart.
        plm_form: where a word is predicted: ``one_pass`` at the word before it, as in a language model; ``two_stream``
            at a blank that reads the text before it, which takes a pass for every word of a caption, as released.
        plm_prefix: what of a caption is given: as many words as a draw says (``random``), or none (``start``).
        align_loss: of OTA and ASP: ``mse``, the squared distance to the word; ``cosine``, one minus the cosine;
            ``nce``, the cross-entropy of the cosines over the words of all captions of the global batch.
        null_token: the text token that rows without a word are drawn to; a causal text tower's start token sees
            nothing of the caption.
        pad_null: in ASP draw every unmatched action token to the null, not one alone.
    """

    vtc: float = 1.0
    vtm: float = 1.0
    mlm: float = 1.0
    plm: float = 1.0
    ota: float = 1.0
    asp: float = 1.0
    answer: float = 0.0
    vtc_smoothing: float = 0.0
    csal: CsalConfig = field(default_factory=CsalConfig)
    vtm_hard_share: float = 1.0
    vtm_ramp_steps: int = 0
    mlm_kept_share: float = 0.0
    plm_form: PlmForm = "one_pass"
    plm_prefix: Prefix = "random"
    align_loss: AlignLoss = "mse"
    null_token: NullToken = "end"
    pad_null: bool = False

    def __post_init__(self) -> None:
        for name, weight in self.weights.items():
            if not weight >= 0:
                raise ValueError(f"objectives.{name} is {weight}; a weight is >= 0 (0 leaves it out)")
        for name in ("vtc_smoothing", "vtm_hard_share", "mlm_kept_share"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"objectives.{name} is {getattr(self, name)}; expected 0 to 1")
        if self.vtm_ramp_steps < 0:
            raise ValueError(f"objectives.vtm_ramp_steps is {self.vtm_ramp_steps}; expected 0 or more")
        if self.csal.share and not self.vtc:
            raise ValueError(
                f"objectives.csal.share is {self.csal.share} and objectives.vtc, whose target it is a share of, is 0; "
                "raise vtc or set the share to 0"
            )
        if not any(self.weights.values()):
            raise ValueError("all weights under objectives are 0; give at least one a positive weight")

    @property
    def trained(self) -> list[str]:
        """Names of the losses that are not left out."""
        return [name for name, weight in self.weights.items() if weight]

    @property
    def weights(self) -> dict[str, float]:
        return {name: getattr(self, name) for name in LOSSES}


class Encoded(NamedTuple):
    """What the losses see of a batch: clips, captions, and captions with hidden words (the same where none are)."""

    video: VideoFeatures
    text: TextFeatures
    hidden_text_BLd: torch.Tensor


class TrainingObjective(nn.Module):
    """Batch in, weighted sum of losses out.

    Args:
        model: see :class:`VideoLanguageModel`.
        config: the config.
        seed: keys the counter-based generator of masks, prefixes and negatives.
        accumulation: micro-steps of an optimiser step.
        chunk_clips: clips whose activations the encoders hold at a time, see :mod:`stoa.objectives.cached`; none is the
            whole batch.

    Raises:
        ValueError: a loss has a weight and the model lacks the tokens it is about.
    """

    def __init__(
        self,
        model: VideoLanguageModel,
        config: ObjectivesConfig,
        *,
        seed: int,
        accumulation: int = 1,
        chunk_clips: int | None = None,
    ) -> None:
        super().__init__()
        for loss, group, switch in (
            ("ota", "objects", "model.objects.num_trajectories"),
            ("asp", "actions", "model.actions.num_tokens"),
        ):
            if getattr(config, loss) and group not in model.config.group_sizes:
                raise ValueError(
                    f"objectives.{loss} is {getattr(config, loss)} and {switch} is 0; raise it, or set "
                    f"objectives.{loss} to 0"
                )
        if config.answer and not model.config.num_answers:
            raise ValueError(
                f"objectives.answer is {config.answer} and the model has no answer head (model.num_answers is 0)"
            )
        self.model = model
        self.config = config
        self.seed = seed
        self.accumulation = accumulation
        self.chunk_clips = chunk_clips
        self.stand_in: Callable[[nn.Parameter], torch.Tensor] = lambda parameter: parameter

    def forward(self, batch: VideoTextBatch, step: int | torch.Tensor) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """Losses of one step.

        Args:
            batch: on the model's device.
            step: index of the micro-step; with the seed and the positions it fixes every draw. A tensor (), int64, on
                the device lets one compiled or captured graph serve all steps.

        Returns:
            (total, scalars to log, detached and on the device). All steps have the same ones, NaN where there is
            nothing to measure; averaged over ranks, each is its global mean.
        """
        model, config = self.model, self.config
        if not isinstance(step, torch.Tensor):
            step = torch.full((), step, device=batch.position_B.device)
        optimiser_step = step // self.accumulation
        with part("draws"):
            draws = uniform(self.seed, step, batch.position_B, self._draws_of(batch))
        hidden = None
        if config.mlm:
            with part("mlm"):
                hidden = mlm.hide_words(batch, draws[Stream.MLM], kept_share=config.mlm_kept_share)
        if self.chunk_clips is None or self.chunk_clips >= len(batch):
            encoded = self._encode(batch, hidden)
        else:
            encoded = self._encode_in_chunks(batch, hidden, self.chunk_clips)
        video, text, hidden_text_BLd = encoded
        passes: dict[str, FusionPass] = {}
        losses: dict[str, torch.Tensor] = {}
        extras: dict[str, torch.Tensor] = {}
        if "graph" in model.fusion.group_sizes:
            extras["graph_density"] = video.graph_density_B.mean()
        if config.vtc or config.vtm:
            with part("vtc"):
                scores = similarities(
                    video.pooled_Bd, text.pooled_Bd, model.clip.logit_scale, batch.clip_keys_B, batch.caption_keys_B
                )
        if config.vtc:
            with part("vtc"):
                losses["vtc"], own = self._contrast(scores, optimiser_step)
                extras |= own | {"temperature": temperature(model.clip.logit_scale).detach()}
        if config.vtm:
            with part("vtm"):
                passes["vtm"], usable_B = vtm.vtm_pass(
                    model, batch, video, text, scores, draws, hard_share=self._hard_share(optimiser_step)
                )
        if hidden is not None:
            with part("mlm"):
                passes["mlm"] = mlm.mlm_pass(model, batch, video, hidden_text_BLd, hidden)
        if config.plm:
            with part("plm"):
                passes["plm"], valid_BQ = plm.plm_pass(
                    model, batch, video, text, draws[Stream.PLM], form=config.plm_form, prefix=config.plm_prefix
                )
        if config.answer:
            with part("answer"):
                passes["answer"] = answer.answer_pass(model, video, text, batch.text_mask_BL)
        with part("fusion"):
            rows = dict(zip(passes, model.fusion.fuse(list(passes.values())), strict=True))
        if config.vtm:
            with part("vtm"):
                losses["vtm"], extras["vtm_accuracy"] = vtm.vtm_loss(model, rows["vtm"], usable_B)
        if config.mlm or config.plm:
            table_Vw = model.language_table()
        if hidden is not None:
            with part("mlm"):
                losses["mlm"] = mlm.mlm_loss(model, batch, rows["mlm"], hidden, table_Vw)
        if config.plm:
            with part("plm"):
                losses["plm"] = plm.plm_loss(model, batch, rows["plm"], valid_BQ, table_Vw)
        if config.ota:
            with part("ota"):
                losses["ota"], metrics = ota_loss(
                    model, batch, video, text, form=config.align_loss, null_token=config.null_token
                )
                extras |= metrics
        if config.asp:
            with part("asp"):
                losses["asp"], metrics = asp_loss(
                    model,
                    batch,
                    video,
                    text,
                    form=config.align_loss,
                    null_token=config.null_token,
                    pad_null=config.pad_null,
                )
                extras |= metrics
        if config.answer:
            with part("answer"):
                losses["answer"], extras["answer_accuracy"] = answer.answer_loss(model, batch, rows["answer"])
        terms = [getattr(config, name) * loss for name, loss in losses.items()]
        total = torch.stack(terms).sum()
        return total, {"loss": total.detach(), **{k: v.detach() for k, v in losses.items()}, **extras}

    def _encode(self, batch: VideoTextBatch, hidden: mlm.Hidden | None) -> Encoded:
        video = self.model.encode_video(batch)
        if hidden is None:
            text = self.model.encode_text(batch.tokens_BL, batch.text_mask_BL)
            return Encoded(video, text, text.tokens_BLd)
        return Encoded(video, *self.model.encode_text_twice(batch.tokens_BL, batch.text_mask_BL, hidden.hidden_BL))

    def _encode_in_chunks(self, batch: VideoTextBatch, hidden: mlm.Hidden | None, clips: int) -> Encoded:
        starts = range(0, len(batch), clips)

        def encode(chunk: int) -> tuple[torch.Tensor, ...]:
            rows = slice(starts[chunk], starts[chunk] + clips)
            chosen = None if hidden is None else mlm.Hidden(*(x[rows] for x in hidden))
            video, text, hidden_text = self._encode(batch.rows(rows), chosen)
            return (*video, *text, hidden_text)

        trained = [p for p in self.parameters() if p.requires_grad]
        outputs = encode_in_chunks(encode, len(starts), trained, self.stand_in)
        features = len(VideoFeatures._fields)
        return Encoded(VideoFeatures(*outputs[:features]), TextFeatures(*outputs[features:-1]), outputs[-1])

    def _hard_share(self, optimiser_step: torch.Tensor) -> float | torch.Tensor:
        share, ramp = self.config.vtm_hard_share, self.config.vtm_ramp_steps
        return share * (optimiser_step / ramp).clamp(max=1.0) if ramp else share

    def _contrast(
        self, scores: Similarities, optimiser_step: torch.Tensor
    ) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        csal = self.config.csal
        loss = vtc_loss(scores, smoothing=self.config.vtc_smoothing)
        if not csal.share:
            return loss, {}
        second, own = csal_loss(scores, csal)
        begun = optimiser_step >= csal.from_step
        return torch.where(begun, second, loss), {"csal_own": torch.where(begun, own, torch.nan)}

    def _draws_of(self, batch: VideoTextBatch) -> dict[Stream, int]:
        sizes: dict[Stream, int] = {}
        for name, objective in (("vtm", vtm), ("mlm", mlm), ("plm", plm)):
            if getattr(self.config, name):
                sizes |= objective.draws_of(batch)
        return sizes
