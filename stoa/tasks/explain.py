"""What a model makes of one clip and a caption: trajectories, action tokens, the words they are matched to, and edges.

Shape legend: B clips (here 1), T frames, K boxes per frame, N trajectories, M action tokens, R rows (of either),
C columns, L text tokens, V vocabulary, d joint width.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch.nn import functional as F

from stoa.batch import VideoTextBatch
from stoa.data.decoding.guard import Guard
from stoa.data.text import encode_caption, word_ending_at, word_spans
from stoa.manifest import ClipRow
from stoa.models.objects import usable_boxes
from stoa.models.video_language import TextFeatures, VideoFeatures
from stoa.objectives.matching import at_columns, match_probabilities, match_rows, null_positions, word_columns
from stoa.objectives.pairs import Asked, match_log_probability
from stoa.objectives.plm import next_word_pass
from stoa.tasks.evaluation import Abilities
from stoa.tasks.explanation import ActionToken, Explanation, MatchedWord, Track, Word
from stoa.tasks.inputs import Clip, VideoInput, read_inputs
from stoa.tasks.tagging import TaggedCaption
from stoa.tasks.taps import Seen, seen_of_clip
from stoa.tasks.trained import TrainedModel


def clip_of_row(row: ClipRow, root: Path) -> Clip:
    """A clip of a manifest; ``root`` is the folder that its paths are relative to."""
    boxes = None if row.detections is None else root / row.detections
    return Clip(video=root / row.video, start_seconds=row.start_seconds, end_seconds=row.end_seconds, detections=boxes)


@torch.inference_mode()
def explain(
    trained: TrainedModel,
    abilities: Abilities,
    video: VideoInput,
    tagged: TaggedCaption,
    *,
    name: str | None = None,
    class_names: Sequence[str] = (),
    guard: Guard | None = None,
) -> Explanation:
    """See :class:`Explanation`.

    Args:
        trained: the model.
        abilities: what of its training matters here.
        video: one clip.
        tagged: the caption, and which of its words trajectories and action tokens may be matched to.
        name: of the clip; default: of its file.
        class_names: of the label vocabulary; a class beyond them is called by its number.
        guard: see :func:`stoa.tasks.inputs.read_inputs`.

    Raises:
        ValueError: the clip cannot be read.
    """
    model, config = trained.model, trained.model.config
    clip = video if isinstance(video, Clip) else Clip(video=video)
    (read,) = read_inputs([clip], config, trained.side, batch_size=1, num_workers=0, guard=guard)
    batch = _with_caption(read.batch, tagged, config.max_tokens).to(trained.device)
    seen = seen_of_clip(model, batch)
    text = model.encode_text(batch.tokens_BL, batch.text_mask_BL)
    pair = _Pair(trained, abilities, batch, seen.video, text)
    notes = []
    if config.objects.num_trajectories and not (batch.labels_BTK >= 0).any():
        why = "no detections were given" if clip.detections is None else "its detections hold no box for these frames"
        notes.append(f"the model sees no trajectories: {why}")
    if (read_of := len(word_spans(pair.tokens))) < len(_every_word(tagged)):
        notes.append(f"the model reads {config.max_tokens} text tokens: the first {read_of} words of the caption")
    for loss, what in (("ota", "trajectories"), ("asp", "action tokens")):
        group = "objects" if loss == "ota" else "actions"
        if abilities.lacks(loss) and group in model.fusion.group_sizes:
            taught = "taught by grounding alone" if group in config.grounded_groups else "untaught"
            notes.append(f"trained without {loss.upper()}: words of {what} are the nearest by cosine, {taught}")
    return Explanation(
        clip=name or _name(clip),
        caption=tagged.caption.text,
        frames_TSS3=batch.frames_BTCHW[0].permute(0, 2, 3, 1).cpu().numpy(),
        words=pair.words(),
        tracks=_tracks(pair, class_names),
        actions=_actions(pair, seen),
        graph=seen.graph,
        match=None if abilities.lacks("vtm") else pair.match(),
        cosine=float(F.cosine_similarity(seen.video.pooled_Bd.float(), text.pooled_Bd.float())),
        tagged_by=tagged.by,
        notes=notes,
    )


class _Pair(NamedTuple):
    """One clip and one caption, encoded."""

    trained: TrainedModel
    abilities: Abilities
    batch: VideoTextBatch
    video: VideoFeatures
    text: TextFeatures

    @property
    def tokens(self) -> list[int]:
        """Of the caption, without padding."""
        tokens: list[int] = self.batch.tokens_BL[0, self.batch.text_mask_BL[0]].tolist()
        return tokens

    def words(self) -> list[Word]:
        tokens, likelihood_L = self.tokens, self._likelihoods()
        words = []
        for start, end in word_spans(tokens):
            pieces = likelihood_L[start:end]
            known = None if any(piece is None for piece in pieces) else float(np.prod(np.array(pieces, dtype=float)))
            words.append(Word(word_ending_at(tokens, end - 1), known))
        return words

    def _likelihoods(self) -> list[float | None]:
        """Of every token after those before it; the first has none."""
        batch, model = self.batch, self.trained.model
        if self.abilities.lacks("plm"):
            return [None] * len(self.tokens)
        asked = next_word_pass(
            model,
            self.video.tokens_BGd,
            self.video.valid_BG,
            self.text.tokens_BLd,
            batch.text_mask_BL,
            torch.ones_like(batch.prefix_B),
            self.abilities.plm_form,
        )
        log_p_LV = model.language_logits(model.fused(asked)[0], model.language_table()).float().log_softmax(dim=-1)
        target_L = model.lm_head.targets(batch.tokens_BL[0, 1:])
        p_L = log_p_LV.gather(1, target_L.clamp(min=0)[:, None])[:, 0].exp().tolist()
        known = [p if target >= 0 else None for p, target in zip(p_L, target_L.tolist(), strict=True)]
        return [None, *known][: len(self.tokens)]

    def match(self) -> float:
        """By the matching head."""
        batch, video = self.batch, (self.video.tokens_BGd, self.video.valid_BG)
        own_B = torch.zeros_like(batch.position_B)
        asked = Asked(*video, own_B, self.text.tokens_BLd, batch.tokens_BL, batch.text_mask_BL)
        return float(match_log_probability(self.trained.model, asked).exp()[0])

    def matched(
        self, rows_BRd: torch.Tensor, word_BL: torch.Tensor, valid_BR: torch.Tensor, *, learned: bool
    ) -> list[MatchedWord | None]:
        """The word of each row: by the one-to-one match of training, or the nearest where none has been trained."""
        batch = self.batch
        columns = word_columns(
            word_BL & batch.word_end_BL, null_positions(batch.text_mask_BL, self.abilities.null_token)
        )
        words_BCd = at_columns(self.text.tokens_BLd, columns)
        count = int(columns.count_B[0])
        cosine_RC = F.cosine_similarity(rows_BRd[0, :, None].float(), words_BCd[0, None, :count].float(), dim=-1)
        position_C = columns.position_BC[0, :count].tolist()
        tokens, spans = self.tokens, word_spans(self.tokens)
        if learned:
            probability_RC = match_probabilities(rows_BRd, words_BCd, columns)[0]
            chosen_R = match_rows(rows_BRd, valid_BR, words_BCd, columns).column_BR[0].tolist()
        elif count == 1:  # the null alone
            return [None] * len(cosine_RC)
        else:
            chosen_R = cosine_RC[:, : count - 1].argmax(dim=1).tolist()
        out: list[MatchedWord | None] = []
        for row, column in enumerate(chosen_R):
            if column < 0 or not bool(valid_BR[0, row]):
                out.append(None)
                continue
            is_null, place = column == count - 1, position_C[column]
            index = -1 if is_null else next(i for i, (start, end) in enumerate(spans) if start <= place < end)
            probability = float(probability_RC[row, column]) if learned else None
            word = None if is_null else word_ending_at(tokens, place)
            out.append(MatchedWord(word, index, probability, float(cosine_RC[row, column])))
        return out


def _tracks(pair: _Pair, class_names: Sequence[str]) -> list[Track]:
    model, batch = pair.trained.model, pair.batch
    if not model.config.objects.num_trajectories:
        return []
    labels_BN = pair.video.trajectory_labels_BN
    rows_BNd, valid_BN = model.word_head(model.group(pair.video, "objects")), labels_BN >= 0
    nouns = pair.matched(rows_BNd, batch.noun_mask_BL, valid_BN, learned=not pair.abilities.lacks("ota"))
    boxes_TK4, labels_TK = batch.boxes_BTK4[0].cpu().numpy(), batch.labels_BTK[0].cpu().numpy()
    tracks = []
    for label, noun in zip(labels_BN[0].tolist(), nouns, strict=True):
        if label >= 0:
            name = class_names[label] if label < len(class_names) else f"class {label}"
            boxes = [boxes_K4[labels_K == label] for boxes_K4, labels_K in zip(boxes_TK4, labels_TK, strict=True)]
            tracks.append(Track(name, boxes, noun))
    return tracks


def _actions(pair: _Pair, seen: Seen) -> list[ActionToken]:
    model, batch = pair.trained.model, pair.batch
    if not model.config.actions.num_tokens:
        return []
    rows_BMd = model.verb_head(model.group(pair.video, "actions"))
    every_BM = torch.ones(rows_BMd.shape[:2], dtype=torch.bool, device=rows_BMd.device)
    verbs = pair.matched(rows_BMd, batch.verb_mask_BL, every_BM, learned=not pair.abilities.lacks("asp"))
    boxes_TK4 = batch.boxes_BTK4[0].cpu().numpy()[:, : seen.boxes_MTK.shape[2]]
    usable_TK = usable_boxes(batch.boxes_BTK4, batch.labels_BTK)[0].cpu().numpy()[:, : seen.boxes_MTK.shape[2]]
    boxes = [boxes_K4[usable_K] for boxes_K4, usable_K in zip(boxes_TK4, usable_TK, strict=True)]
    return [
        ActionToken(
            verb, seen.patches_MTYX[m], boxes, [w[u] for w, u in zip(seen.boxes_MTK[m], usable_TK, strict=True)]
        )
        for m, verb in enumerate(verbs)
    ]


def _with_caption(batch: VideoTextBatch, tagged: TaggedCaption, max_tokens: int) -> VideoTextBatch:
    encoded = encode_caption(tagged.caption, max_tokens)
    names = ("tokens", "text_mask", "noun_mask", "verb_mask", "word_end", "noun_labels")
    return dataclasses.replace(
        batch, **{f"{name}_BL": torch.from_numpy(getattr(encoded, f"{name}_L"))[None] for name in names}
    )


def _every_word(tagged: TaggedCaption) -> list[tuple[int, int]]:
    """Words of the caption, read by the model or not."""
    whole = encode_caption(tagged.caption, 4 * len(tagged.caption.text) + 2)  # a character has four bytes at most
    return word_spans(whole.tokens_L[whole.text_mask_L].tolist())


def _name(clip: Clip) -> str:
    return "frames" if isinstance(clip.video, np.ndarray | torch.Tensor) else Path(clip.video).name
