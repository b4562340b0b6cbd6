"""A trained model as a program uses it; ``stoa.load`` makes one.

Shape legend: N videos, Q texts, d joint width.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import json
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple, TypeVar, overload

import numpy as np
import torch
from torch.nn import functional as F

from stoa.batch import VideoTextBatch
from stoa.data.decoding.guard import Guard
from stoa.data.text import encode_caption
from stoa.manifest import Caption
from stoa.models.config import ModelConfig
from stoa.models.video_language import TextFeatures, VideoFeatures
from stoa.objectives.pairs import Asked, match_log_probability
from stoa.objectives.vtc import temperature
from stoa.questions import QuestionRow
from stoa.tasks.answering import choose_answers, pick_options, say_answers
from stoa.tasks.captioning import caption_videos
from stoa.tasks.config import GenerationConfig
from stoa.tasks.evaluation import Abilities
from stoa.tasks.explain import explain
from stoa.tasks.explanation import Explanation
from stoa.tasks.inputs import Clip, VideoInput, VideoInputs, guard_for_inputs, read_inputs
from stoa.tasks.opened import open_model
from stoa.tasks.tagging import TaggedCaption, tag_caption
from stoa.tasks.trained import TrainedModel
from stoa.tasks.videos import Read

__all__ = ["Clip", "Explanation", "Hit", "Model", "Videos", "load"]

T = TypeVar("T")
_TEXTS_AT_ONCE = 64
_PAIRS_AT_ONCE = 256
_ONE = str | os.PathLike | np.ndarray | torch.Tensor | Clip


class Videos(NamedTuple):
    """Encoded videos, of which any number of things can be asked.

    Attributes:
        features: of N videos, on the device of the model.
    """

    features: VideoFeatures

    def __len__(self) -> int:
        return len(self.features.pooled_Bd)


@dataclass(frozen=True, slots=True)
class Hit:
    """A video that was found.

    Attributes:
        number: of the video among those that were searched.
        score: by which hits are ordered: log-probability of the towers among the candidates and that of a match; of
            a model without a matching head the cosine.
        match: probability that the text is of the video, by the matching head, if there is one.
    """

    number: int
    score: float
    match: float | None


def load(path: str | os.PathLike[str], *, device: str | torch.device | None = None) -> Model:
    """Open a model.

    Args:
        path: ``small``, the model that comes with the package and knows coloured shapes that move, not the world; a
            run, one of its checkpoints, or what ``stoa export`` has written; or weights of CLIP as ``NAME:TAG`` of
            open_clip (``ViT-B-16:openai``), for embeddings and search alone.
        device: where to put it; None is the first GPU, or without one the CPU.

    Raises:
        ValueError: there is no model, or it is damaged; the message names the folder.
    """
    trained, abilities, facts, _ = open_model(os.fspath(path), None if device is None else torch.device(device))
    return Model(trained, abilities, facts.get("task"))


class Model:
    """See :func:`load`. Every method takes one video or text, or a sequence of them, and gives as much back.

    Args:
        trained: the model.
        abilities: what of its training matters here.
        task: that it was fine-tuned for, if for any.

    Attributes:
        batch_size: videos that are encoded at a time.
        num_workers: processes that read files; 0 reads here.
        generation: the search for words of captions and answers.
    """

    def __init__(self, trained: TrainedModel, abilities: Abilities, task: str | None = None) -> None:
        self.trained, self.abilities, self.task = trained, abilities, task
        self.batch_size, self.num_workers, self.generation = 16, 0, GenerationConfig()
        self._idle_guards: list[Guard] = []

    @property
    def device(self) -> torch.device:
        return self.trained.device

    @functools.cached_property
    def key(self) -> str:
        """Twelve digits of a hash of its weights and its configuration, which tell it from other models. An option that
        is new, and as it was without it, changes none: indexes outlive it."""
        given = _changed(asdict(self.trained.model.config), asdict(ModelConfig()))
        digest = hashlib.sha256(json.dumps(given, sort_keys=True).encode())
        for name, weight in sorted(self.trained.model.state_dict().items()):
            digest.update(name.encode())
            digest.update(weight.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
        return digest.hexdigest()[:12]

    @property
    def matches(self) -> bool:
        """Whether it has a matching head that was trained."""
        return not self.abilities.lacks("vtm")

    @property
    def knows_questions(self) -> bool:
        """Whether it was fine-tuned on questions. Without options another model can but go on from a question as from
        the beginning of a caption."""
        return self.task == "answering" or bool(self.abilities.answers)

    @property
    def width(self) -> int:
        """Of the joint space, d."""
        return int(self.trained.model.clip.text_projection.shape[1])

    def embed_video(self, videos: VideoInput | VideoInputs, *, progress: bool = False) -> torch.Tensor:
        """Vectors of unit length, (N, d) float32 on the CPU, or (d,) of one video: their products with those of texts
        are cosines.

        Raises:
            ValueError: a video cannot be read; names it.
        """
        given, single = _several(videos)
        vectors_Nd = torch.cat([self.embed_batch(read.batch) for read in self._read(given, progress)])
        return vectors_Nd[0] if single else vectors_Nd

    def embed_batch(self, batch: VideoTextBatch) -> torch.Tensor:
        """Vectors (B, d) as :meth:`embed_video` gives them, of videos that are read already."""
        return F.normalize(self._features(batch).pooled_Bd.float(), dim=-1).cpu()

    def embed_text(self, texts: str | Sequence[str]) -> torch.Tensor:
        """Vectors of unit length, (Q, d) float32 on the CPU, or (d,) of one text."""
        given, single = ([texts], True) if isinstance(texts, str) else (list(texts), False)
        vectors = [texts.features.pooled_Bd for texts in self._texts(given)]
        vectors_Qd = F.normalize(torch.cat(vectors).float(), dim=-1).cpu()
        return vectors_Qd[0] if single else vectors_Qd

    def encode(self, videos: VideoInput | VideoInputs, *, progress: bool = False) -> Videos:
        """All that the model sees of videos, for :meth:`search` and :meth:`match` of many texts. Raises as
        :meth:`embed_video` does."""
        found = [self._features(read.batch) for read in self._read(_several(videos)[0], progress)]
        return Videos(VideoFeatures(*(torch.cat(part) for part in zip(*found, strict=True))))

    @torch.inference_mode()
    def search(self, text: str, videos: Videos | VideoInput | VideoInputs, *, top_k: int = 5) -> list[Hit]:
        """The videos that fit a text best: those with the largest cosines, in the order of :attr:`Hit.score`, which a
        matching head has a say in.

        Raises:
            ValueError: ``top_k`` is less than 1, or a video cannot be read.
        """
        if top_k < 1:
            raise ValueError(f"top_k is {top_k}; expected at least 1")
        shown = self._encoded(videos)
        (asked,) = self._texts([text])
        cosines_N = F.cosine_similarity(shown.pooled_Bd.float(), asked.features.pooled_Bd.float())
        best = (temperature(self.trained.model.clip.logit_scale) * cosines_N).topk(min(top_k, len(cosines_N)))
        if not self.matches:
            found = zip(best.indices.tolist(), cosines_N[best.indices].tolist(), strict=True)
            return [Hit(number, cosine, None) for number, cosine in found]
        matches = self._log_match(_rows(shown, best.indices), asked)
        scores = best.values.log_softmax(dim=0) + matches
        hits = zip(best.indices.tolist(), scores.tolist(), matches.exp().tolist(), strict=True)
        return sorted((Hit(*hit) for hit in hits), key=lambda hit: -hit.score)

    @torch.inference_mode()
    def match(self, videos: Videos | VideoInput | VideoInputs, texts: str | Sequence[str]) -> torch.Tensor:
        """Probability that each text is of its video, by the matching head: (N,) float32 on the CPU. One text is of all
        videos.

        Raises:
            ValueError: the model has not learned to match, there are other numbers of texts than of videos, or a video
                cannot be read.
        """
        if not self.matches:
            raise ValueError("this model was trained without VTM, so it matches nothing; use cosines, or load another")
        shown = self._encoded(videos)
        given = [texts] * len(shown.pooled_Bd) if isinstance(texts, str) else list(texts)
        if len(given) != len(shown.pooled_Bd):
            raise ValueError(f"{len(given)} texts for {len(shown.pooled_Bd)} videos; give one each, or one for all")
        matches, first = [], 0
        for some in self._texts(given):
            rows = torch.arange(first, first + len(some.ids_QL), device=self.device)
            matches.append(self._log_match(_rows(shown, rows), some).exp())
            first += len(some.ids_QL)
        return torch.cat(matches).cpu()

    @overload
    def caption(self, videos: VideoInput, *, progress: bool = False) -> str: ...  # type: ignore[overload-overlap]
    @overload
    def caption(self, videos: VideoInputs, *, progress: bool = False) -> list[str]: ...
    def caption(self, videos: VideoInput | VideoInputs, *, progress: bool = False) -> str | list[str]:
        """What is to be seen, in words.

        Raises:
            ValueError: the model has not learned to speak, or a video cannot be read.
        """
        if self.abilities.lacks("plm"):
            raise ValueError("this model was trained without PLM, so it has no words; load another")
        given, single = _several(videos)
        said = caption_videos(self.trained, self._read(given, progress), self.generation, self.abilities.plm_form)
        captions = [said[str(number)] for number in range(len(given))]
        return captions[0] if single else captions

    @overload
    def answer(  # type: ignore[overload-overlap]
        self, videos: VideoInput, question: str, *, options: Sequence[str] = ()
    ) -> str: ...
    @overload
    def answer(self, videos: VideoInputs, question: str, *, options: Sequence[str] = ()) -> list[str]: ...
    def answer(
        self, videos: VideoInput | VideoInputs, question: str, *, options: Sequence[str] = ()
    ) -> str | list[str]:
        """The answer to a question about each video: the best of ``options``, by the matching head, or by cosine where
        there is none; without options of the answers that it was fine-tuned to choose from, or in its own words,
        which describe the video rather than answer where it does not know questions (:attr:`knows_questions`).

        Raises:
            ValueError: the model can answer none of these ways, or a video cannot be read.
        """
        given, single = _several(videos)
        asked = [
            QuestionRow(str(number), str(number), question, "", "", tuple(options)) for number in range(len(given))
        ]
        read = self._read(given, progress=False)
        if options:
            said = pick_options(self.trained, read, asked)["vtm" if self.matches else "itc"]
        elif self.abilities.answers:
            said = choose_answers(self.trained, read, asked, self.abilities.answers)
        elif not self.abilities.lacks("plm"):
            said = say_answers(self.trained, read, asked, self.generation, self.abilities.plm_form)
        else:
            raise ValueError("this model was trained without PLM and for no answers; give options, or load another")
        answers = [said[str(number)] for number in range(len(given))]
        return answers[0] if single else answers

    def explain(
        self,
        video: VideoInput,
        caption: str | Caption,
        *,
        class_names: Sequence[str] = (),
        spacy: str | os.PathLike[str] | None = None,
    ) -> Explanation:
        """What the model makes of a video and a caption; :func:`stoa.save_explanation` draws it.

        Args:
            video: one.
            caption: a text, whose nouns and verbs are found as :func:`stoa.tasks.tagging.tag_caption` says; or a
                :class:`stoa.manifest.Caption`, which tells them.
            class_names: of the detections' vocabulary, in the order of their labels.
            spacy: a spaCy pipeline that finds nouns and verbs, by name or folder.

        Raises:
            ValueError: the video cannot be read, the caption has no word, or the pipeline cannot be used.
        """
        tagged = tag_caption(caption, spacy) if isinstance(caption, str) else TaggedCaption(caption, "as given")
        with self._guard() as guard:
            return explain(self.trained, self.abilities, video, tagged, class_names=class_names, guard=guard)

    def _read(self, videos: Sequence[VideoInput], progress: bool) -> Iterator[Read]:
        if not videos:
            raise ValueError("no videos are given; expected at least one")
        with self._guard() as guard:
            yield from read_inputs(
                videos,
                self.trained.model.config,
                self.trained.side,
                batch_size=self.batch_size,
                num_workers=self.num_workers,
                guard=guard,
                progress=progress,
            )

    @contextlib.contextmanager
    def _guard(self) -> Iterator[Guard]:
        """Its process decodes for this call, and for later ones unless this is interrupted: it may be at work then."""
        guard = self._idle_guards.pop() if self._idle_guards else guard_for_inputs()
        try:
            yield guard
        except ValueError:  # a video cannot be read
            self._idle_guards.append(guard)
            raise
        self._idle_guards.append(guard)

    @torch.inference_mode()
    def _features(self, batch: VideoTextBatch) -> VideoFeatures:
        return self.trained.model.encode_video(batch.to(self.device))

    def _encoded(self, videos: Videos | VideoInput | VideoInputs) -> VideoFeatures:
        return (videos if isinstance(videos, Videos) else self.encode(videos)).features

    @torch.inference_mode()
    def _texts(self, texts: Sequence[str]) -> Iterator[_Texts]:
        """Some at a time."""
        if not texts:
            raise ValueError("no texts are given; expected at least one")
        for first in range(0, len(texts), _TEXTS_AT_ONCE):
            some = texts[first : first + _TEXTS_AT_ONCE]
            encoded = [encode_caption(Caption(text), self.trained.model.config.max_tokens) for text in some]
            ids, mask = (
                torch.from_numpy(np.stack(rows)).to(self.device)
                for rows in zip(*((one.tokens_L, one.text_mask_L) for one in encoded), strict=True)
            )
            yield _Texts(self.trained.model.encode_text(ids, mask), ids, mask)

    def _log_match(self, video: VideoFeatures, asked: _Texts) -> torch.Tensor:
        """Log-probabilities (N,) of pairs; one text is of all videos."""
        count = len(video.pooled_Bd)
        out = []
        for some in torch.arange(count, device=self.device).split(_PAIRS_AT_ONCE):
            texts = some if len(asked.ids_QL) == count else torch.zeros_like(some)
            text = asked.features.tokens_BLd[texts], asked.ids_QL[texts], asked.mask_QL[texts]
            own = torch.arange(len(some), device=self.device)
            pairs = Asked(video.tokens_BGd[some], video.valid_BG[some], own, *text)
            out.append(match_log_probability(self.trained.model, pairs))
        return torch.cat(out)


def _changed(values: dict[str, Any], defaults: dict[str, Any]) -> dict[str, Any]:
    """What differs, at any depth."""
    return {
        name: _changed(value, defaults[name]) if isinstance(value, dict) else value
        for name, value in values.items()
        if value != defaults[name]
    }


class _Texts(NamedTuple):
    """Encoded texts (Q), their token ids and masks."""

    features: TextFeatures
    ids_QL: torch.Tensor
    mask_QL: torch.Tensor


def _several(videos: VideoInput | Iterable[VideoInput]) -> tuple[list[VideoInput], bool]:
    """Videos, and whether it was one."""
    return ([videos], True) if isinstance(videos, _ONE) else (list(videos), False)


def _rows(video: VideoFeatures, rows: torch.Tensor) -> VideoFeatures:
    return VideoFeatures(*(part[rows] for part in video))
