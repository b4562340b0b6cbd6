"""How the losses are configured. Needs no torch."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from stoa.models.config import MatchBy, PlmForm

NullToken = Literal["end", "start"]


Prefix = Literal["random", "start"]
"""Which prefix a caption has: one drawn at random, or the start token alone, which is captioning."""


AlignLoss = Literal["mse", "cosine", "nce", "nce_both"]


PRETRAINING_LOSSES = ("vtc", "vtm", "mlm", "plm", "ota", "asp")


LOSSES = (*PRETRAINING_LOSSES, "answer")


@dataclass(frozen=True, kw_only=True)
class CsalConfig:
    """Self-similarity as the target of VTC.

    Attributes:
        share: of the target; the rest is on the own pair. 1 is the second stage of STGT, 0 leaves it out.
        from_step: optimiser steps before it, with the own pair as the target: similarities mean nothing at first.
        scale: by which similarities are multiplied before the softmax: the release's is 5. ``auto`` (or null) is the
            least from 5 to 100 that leaves ``mass`` on the own pairs, since a fixed one leaves the less the larger the
            batch is.
        mass: see ``scale``. Where all pairs are alike 100 leaves less; ``csal_own`` in the log says how much.
        cut: pairs less alike than this are left out of the target; above 1 these are all but the own pair.
        smoothing: share of the target that is spread over all pairs.
    """

    share: float = 0.0
    from_step: int = 0
    scale: float | Literal["auto"] | None = "auto"
    mass: float = 0.5
    cut: float = 0.05
    smoothing: float = 0.01

    def __post_init__(self) -> None:
        for name in ("share", "mass", "smoothing"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"objectives.csal.{name} is {getattr(self, name)}; expected 0 to 1")
        if self.from_step < 0:
            raise ValueError(f"objectives.csal.from_step is {self.from_step}; expected 0 or more")
        if self.fixed_scale is not None and not self.fixed_scale > 0:
            raise ValueError(f"objectives.csal.scale is {self.scale}; expected more than 0, or auto")
        if self.fixed_scale is not None and self.mass != CsalConfig.mass:
            raise ValueError(
                f"objectives.csal.mass is {self.mass} and scale {self.scale}; only a scale of auto holds a mass: leave "
                "one of them out"
            )

    @property
    def fixed_scale(self) -> float | None:
        """``scale``, or None where it is chosen."""
        return None if self.scale == "auto" else self.scale


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
        plm_prefix: what of a caption is given: as many words as a draw says (``random``), or none (``start``). With
            ``start`` all words count, and beside a VTM by the likelihood its pass of the own pairs serves PLM as well;
            a prefix that the data give is read word by word there, as the rest is.
        align_loss: of OTA and ASP: ``mse``, the squared distance to the word; ``cosine``, one minus the cosine;
            ``nce``, the cross-entropy of the cosines over the words of all captions of the global batch; ``nce_both``,
            that and the cross-entropy of a word's clip among all clips, whichever trajectory it means there.
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

    def plm_in_vtm(self, match_by: MatchBy) -> bool:
        """Whether PLM asks for what VTM's pass of the own pairs tells already: all words of a text, one by one."""
        return bool(self.vtm and self.plm and self.plm_prefix == "start" and match_by == "likelihood")

    @property
    def contrasts_clips(self) -> bool:
        """Whether a loss of words compares the clips of all ranks."""
        return self.align_loss == "nce_both" and bool(self.ota or self.asp)

    @property
    def weights(self) -> dict[str, float]:
        return {name: getattr(self, name) for name in LOSSES}
