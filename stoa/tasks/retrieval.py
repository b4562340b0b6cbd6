"""Text-video retrieval: by dual encoder (``itc``) and re-ranked by the matching head (``itc+vtm``).

Shape legend: Q captions, V videos, N queries of either kind or pairs, K candidates, W hard sets' galleries of S clips,
P captions of those, G video-side tokens, L text tokens.
"""

from __future__ import annotations

from collections import defaultdict
from typing import NamedTuple

import torch
from torch.nn import functional as F

from stoa.models.config import PlmForm
from stoa.objectives.pairs import Answered, Asked, answer
from stoa.objectives.plm import next_word_pass
from stoa.objectives.vtc import temperature
from stoa.progress import Progress
from stoa.tasks.gallery import Gallery
from stoa.tasks.metrics.ranking import RankMetrics, rank_metrics
from stoa.tasks.trained import TrainedModel

GALLERY_SIZE = 4  # clips of a hard set that are told apart
PAIRS_AT_ONCE = 256
# Added to the scores of items that are no candidates: their itc order, under every candidate.
_BELOW_CANDIDATES = -1e6


@torch.inference_mode()
def itc_scores(trained: TrainedModel, gallery: Gallery) -> torch.Tensor:
    """Scaled cosines (Q, V) of the two towers, fp32."""
    text_Qd = F.normalize(gallery.text_pooled_Qd.float(), dim=-1)
    video_Vd = F.normalize(gallery.video_pooled_Vd.float(), dim=-1)
    return temperature(trained.model.clip.logit_scale) * text_Qd @ video_Vd.T


def match_scores(
    trained: TrainedModel,
    gallery: Gallery,
    text_index: torch.Tensor,
    video_index: torch.Tensor,
    *,
    batch_size: int = PAIRS_AT_ONCE,
) -> torch.Tensor:
    """Log-probability of a match for pairs of captions and videos, shaped like the two index tensors."""
    return _answers(trained, gallery, text_index, video_index, batch_size).match_N.view(text_index.shape)


@torch.inference_mode()
def _answers(
    trained: TrainedModel, gallery: Gallery, text_index: torch.Tensor, video_index: torch.Tensor, batch_size: int
) -> Answered:
    """Of all pairs, in order."""
    out = []
    pairs = zip(text_index.flatten().split(batch_size), video_index.flatten().split(batch_size), strict=True)
    with Progress(text_index.numel(), "match", "pairs") as progress:
        for texts, videos in pairs:
            shown, clip_N = videos.unique(return_inverse=True)
            video = gallery.video_tokens_VGd[shown], gallery.video_valid_VG[shown]
            text = gallery.tokens_of_texts(texts), gallery.text_ids_QL[texts], gallery.text_mask_QL[texts]
            out.append(answer(trained.model, Asked(*video, clip_N, *text)))
            progress.update(len(texts))
    match_N, text_N = zip(*out, strict=True)
    return Answered(torch.cat(match_N), None if text_N[0] is None else torch.cat(text_N))


@torch.inference_mode()
def caption_scores(
    trained: TrainedModel,
    gallery: Gallery,
    text_index: torch.Tensor,
    video_index: torch.Tensor,
    form: PlmForm,
    *,
    batch_size: int = PAIRS_AT_ONCE,
) -> torch.Tensor:
    """Log-probability of captions given videos, for pairs shaped like the two index tensors; words outside the language
    head's vocabulary do not count."""
    model, out = trained.model, []
    table_Vw = model.language_table()
    pairs = zip(text_index.flatten().split(batch_size), video_index.flatten().split(batch_size), strict=True)
    for texts, videos in pairs:
        mask = gallery.text_mask_QL[texts]
        asked = next_word_pass(
            model,
            gallery.video_tokens_VGd[videos],
            gallery.video_valid_VG[videos],
            gallery.tokens_of_texts(texts),
            mask,
            torch.ones_like(texts),
            form,
        )
        rows = model.fused(asked)
        targets = model.lm_head.targets(gallery.text_ids_QL[texts, 1:])
        known = mask[:, 1:] & (targets >= 0)
        logs = model.language_logits(rows, table_Vw).float().log_softmax(dim=-1)
        of_words = logs.gather(2, targets.clamp(min=0)[..., None]).squeeze(2)
        out.append(of_words.where(known, 0).sum(dim=1))
    return torch.cat(out).view(text_index.shape)


@torch.inference_mode()
def rerank(
    trained: TrainedModel, gallery: Gallery, scores_NM: torch.Tensor, *, top_k: int, queries: str
) -> torch.Tensor:
    """Re-rank the ``top_k`` best of each row; the others keep their order below them.

    A candidate's score is ``log softmax(itc over the candidates) + log P(match)``.

    Args:
        trained: the model.
        gallery: what the rows and columns of ``scores_NM`` stand for.
        scores_NM: itc scores, queries x items.
        top_k: candidates per query; at most the number of items is used.
        queries: ``text`` (rows are captions) or ``video``.
    """
    best = scores_NM.topk(min(top_k, scores_NM.shape[1]), dim=1)
    rows_N1 = torch.arange(len(scores_NM), device=scores_NM.device)[:, None].expand_as(best.indices)
    texts, videos = (rows_N1, best.indices) if queries == "text" else (best.indices, rows_N1)
    combined = best.values.log_softmax(dim=1) + match_scores(trained, gallery, texts, videos)
    return (scores_NM.double() + _BELOW_CANDIDATES).scatter(1, best.indices, combined.double())


class RetrievalScores(NamedTuple):
    """Scores of all pairs (Q, V), higher is better, by method; text-to-video and video-to-text differ where the best
    of a row are re-ranked."""

    text_to_video_QV: dict[str, torch.Tensor]
    video_to_text_VQ: dict[str, torch.Tensor]

    def metrics(self, relevant_QV: torch.Tensor) -> dict[str, dict[str, RankMetrics]]:
        """By method and direction (``text-to-video``, ``video-to-text``)."""
        return {
            method: {
                "text-to-video": rank_metrics(scores_QV, relevant_QV),
                "video-to-text": rank_metrics(self.video_to_text_VQ[method], relevant_QV.T),
            }
            for method, scores_QV in self.text_to_video_QV.items()
        }


def retrieval_scores(
    trained: TrainedModel, gallery: Gallery, *, top_k: int, dual_softmax: bool = False
) -> RetrievalScores:
    """Scores by method: ``itc``, ``itc+vtm`` (the ``top_k`` best of ``itc`` re-ranked) and, if wanted, ``itc+dsl`` and
    ``itc+dsl+vtm``, for which the logarithm of its softmax over the queries is added to ``itc``. That needs all queries
    at once, which a search engine has not: it is reported apart."""
    itc_QV = itc_scores(trained, gallery)
    starts = {"itc": (itc_QV, itc_QV.T)}
    if dual_softmax:
        starts["itc+dsl"] = dual_softmaxed(itc_QV), dual_softmaxed(itc_QV.T)
    out = RetrievalScores({}, {})
    for name, (scores_QV, scores_VQ) in starts.items():
        out.text_to_video_QV[name], out.video_to_text_VQ[name] = scores_QV, scores_VQ
        again = f"{name}+vtm"
        out.text_to_video_QV[again] = rerank(trained, gallery, scores_QV, top_k=top_k, queries="text")
        out.video_to_text_VQ[again] = rerank(trained, gallery, scores_VQ, top_k=top_k, queries="video")
    return out


def dual_softmaxed(scores_NM: torch.Tensor) -> torch.Tensor:
    """Scores (queries, items) with the prior that an item's softmax over the queries is (CAMoE, arXiv 2109.04290).

    Scores are logarithms, so that of the prior is added: an order must not depend on where their zero is, as it does
    where CAMoE multiplies.
    """
    return scores_NM + scores_NM.log_softmax(dim=0)


def evaluate_hard_set(
    trained: TrainedModel, gallery: Gallery, size: int = GALLERY_SIZE, *, form: PlmForm = "one_pass"
) -> dict[str, float]:
    """Text-to-video accuracy (percent) within galleries of ``size``, by ``vtm`` (the headline), ``plm`` (how likely the
    caption is, given the video) and ``itc`` (a control).

    Rows whose ids agree up to the last underscore form a gallery; one that misses a video is left out. A tie
    counts as a random choice.

    Returns:
        accuracy of each method, and the number of ``queries``.

    Raises:
        ValueError: no gallery is whole.
    """
    members: dict[str, list[int]] = defaultdict(list)
    for index, clip in enumerate(gallery.ids):
        members[clip.rsplit("_", 1)[0]].append(index)
    whole = [videos for videos in members.values() if len(videos) == size]
    if not whole:
        raise ValueError(
            f"none of the {len(members)} galleries has {size} readable videos (ids like name_0, name_1, ...)"
        )
    columns_WS = torch.tensor(whole, device=gallery.video_of_text_Q.device)
    texts_of = [torch.isin(gallery.video_of_text_Q, columns).nonzero().squeeze(1) for columns in columns_WS]
    rows_PS = torch.cat(texts_of)[:, None].expand(-1, size)
    cells_PS = columns_WS.repeat_interleave(torch.tensor([len(texts) for texts in texts_of]).to(columns_WS), dim=0)
    relevant_PS = gallery.video_of_text_Q[rows_PS] == cells_PS
    scores = _pair_scores(trained, gallery, rows_PS, cells_PS, form)
    accuracy = {method: rank_metrics(score_PS, relevant_PS).r1 for method, score_PS in scores.items()}
    return {**accuracy, "queries": len(rows_PS)}


def _pair_scores(
    trained: TrainedModel, gallery: Gallery, texts_PS: torch.Tensor, videos_PS: torch.Tensor, form: PlmForm
) -> dict[str, torch.Tensor]:
    """By ``vtm``, ``plm`` and ``itc``; what matches by the likelihood has said that of the caption too."""
    answers = _answers(trained, gallery, texts_PS, videos_PS, PAIRS_AT_ONCE)
    if answers.text_N is not None and form == "one_pass":
        plm_PS = answers.text_N.view(texts_PS.shape)
    else:
        plm_PS = caption_scores(trained, gallery, texts_PS, videos_PS, form)
    itc_PS = itc_scores(trained, gallery)[texts_PS, videos_PS]
    return {"vtm": answers.match_N.view(texts_PS.shape), "plm": plm_PS, "itc": itc_PS}
