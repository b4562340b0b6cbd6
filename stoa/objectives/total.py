"""The objective: every loss with its weight."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import nn

from stoa.batch import VideoTextBatch
from stoa.models.causal_texts import CausalPass
from stoa.models.fusion import FusionPass
from stoa.models.video_language import TextFeatures, VideoFeatures, VideoLanguageModel
from stoa.objectives import answer, mlm, plm, vtm
from stoa.objectives.alignment import asp_loss, ota_loss
from stoa.objectives.all_clips import gather_clips
from stoa.objectives.cached import encode_in_chunks
from stoa.objectives.config import ObjectivesConfig
from stoa.objectives.pairs import match_pass
from stoa.objectives.random import Stream, uniform
from stoa.objectives.vtc import Similarities, csal_loss, similarities, temperature, vtc_loss
from stoa.parts import part


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
        if config.vtm and config.plm and config.plm_form == "two_stream" and model.config.match_by == "likelihood":
            raise ValueError(
                "objectives.plm_form is 'two_stream' and model.match_by 'likelihood', which asks for the next word as "
                "'one_pass' does; set one of them to its default"
            )
        if config.answer and not model.config.num_answers:
            raise ValueError(
                f"objectives.answer is {config.answer} and the model has no answer head (model.num_answers is 0)"
            )
        self.model = model
        self.config = config
        self.plm_in_vtm = config.plm_in_vtm(model.config.match_by)
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
        passes: dict[str, FusionPass | CausalPass] = {}
        losses: dict[str, torch.Tensor] = {}
        extras: dict[str, torch.Tensor] = {}
        if "graph" in model.fusion.group_sizes:
            extras["graph_density"] = video.graph_density_B.mean()
        all_clips = gather_clips(video) if config.vtm or config.contrasts_clips else None
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
                assert all_clips is not None
                hard_share = self._hard_share(optimiser_step)
                pairs = vtm.draw_pairs(batch, video, all_clips, text, scores, draws, hard_share=hard_share)
                passes["vtm"] = match_pass(model, pairs.asked)
        if hidden is not None:
            with part("mlm"):
                passes["mlm"] = mlm.mlm_pass(model, batch, video, hidden_text_BLd, hidden)
        if config.plm:
            with part("plm"):
                prefix_B = plm.prefixes(batch, draws[Stream.PLM], config.plm_prefix)
                if not self.plm_in_vtm:
                    passes["plm"] = plm.plm_pass(model, batch, video, text, prefix_B, form=config.plm_form)
        if config.answer:
            with part("answer"):
                passes["answer"] = answer.answer_pass(model, video, text, batch.text_mask_BL)
        with part("fusion"):
            rows = dict(zip(passes, model.fusion.fuse(list(passes.values())), strict=True))
        if config.vtm or config.mlm or config.plm:
            table_Vw = model.language_table()
        if config.vtm:
            with part("vtm"):
                losses["vtm"], extras["vtm_accuracy"], own_words = vtm.vtm_loss(model, rows["vtm"], pairs, table_Vw)
        if hidden is not None:
            with part("mlm"):
                losses["mlm"] = mlm.mlm_loss(model, batch, rows["mlm"], hidden, table_Vw)
        if config.plm:
            with part("plm"):
                if self.plm_in_vtm:
                    assert own_words is not None
                    losses["plm"] = plm.plm_of_words(*own_words, prefix_B)
                else:
                    losses["plm"] = plm.plm_loss(model, batch, rows["plm"], prefix_B, table_Vw)
        if config.ota:
            with part("ota"):
                losses["ota"], metrics = ota_loss(
                    model, batch, video, text, all_clips, form=config.align_loss, null_token=config.null_token
                )
                extras |= metrics
        if config.asp:
            with part("asp"):
                losses["asp"], metrics = asp_loss(
                    model,
                    batch,
                    video,
                    text,
                    all_clips,
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
