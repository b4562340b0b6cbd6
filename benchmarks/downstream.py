"""Captions with cached keys and values against passes over the whole text, and re-ranking against its bare forward.

    python benchmarks/downstream.py --out benchmarks/results/downstream.json

Weights are random: they change neither cost. Both sides take turns; a ratio is the median over rounds.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from stoa.config import parse_run
from stoa.costs.batches import END, START, full_batch
from stoa.models.incremental import IncrementalText
from stoa.models.video_language import VideoFeatures, VideoLanguageModel
from stoa.objectives.masks import bidirectional_mask, prefix_mask
from stoa.tasks import generation
from stoa.tasks.config import GenerationConfig
from stoa.tasks.gallery import Gallery
from stoa.tasks.generation import generate
from stoa.tasks.retrieval import itc_scores, rerank
from stoa.tasks.trained import TrainedModel

PAIRS_AT_ONCE = 256


class WholeText:
    """What :class:`IncrementalText` does, by a pass over all that has been said for every word."""

    def __init__(
        self,
        model: VideoLanguageModel,
        video: VideoFeatures,
        prefix_RP: torch.Tensor,
        lengths_R: torch.Tensor,
        form: str,
    ) -> None:
        assert form == "one_pass" and bool((lengths_R == 1).all())
        self.model, self.video, self.said = model, video, prefix_RP[:, :0]
        self.table_Vw = model.language_table()

    def next_token_logits(self, tokens_R: torch.Tensor, positions_R: torch.Tensor) -> torch.Tensor:
        self.said = torch.cat([self.said, tokens_R[:, None]], dim=1)
        mask = torch.ones_like(self.said, dtype=torch.bool)
        text = self.model.encode_text(self.said, mask)
        seen = prefix_mask(mask, torch.ones_like(tokens_R), self.video.valid_BG)
        last = (mask.sum(dim=1) - 1)[:, None]
        meanings = self.model.meanings(self.video.tokens_BGd, self.video.valid_BG)
        text_RLd = self.model.grounded(text.tokens_BLd, meanings)
        fused = self.model.fused(self.model.text_pass(self.video.tokens_BGd, text_RLd, seen, last))
        return self.model.language_logits(fused[:, 0], self.table_Vw)

    def repeat(self, times: int) -> None:
        self.said = self.said.repeat_interleave(times, dim=0)
        self.video = VideoFeatures(*(part.repeat_interleave(times, dim=0) for part in self.video))

    def reorder(self, rows_R: torch.Tensor) -> None:
        self.said = self.said[rows_R]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipe", default="recipes/stoa.yaml")
    parser.add_argument("--clips", type=int, default=16, help="captioned at once; as many as stoa evaluate takes")
    parser.add_argument("--beams", type=int, default=5)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--rerank_recipe", default="recipes/demo.yaml")
    parser.add_argument("--gallery", type=int, default=1000)
    parser.add_argument("--top_k", type=int, default=32)
    parser.add_argument("--out", type=Path, help="JSON file to write")
    args = parser.parse_args()
    results = {
        "captions": captions(model_of(args.recipe), args.clips, args.beams, args.rounds),
        "re-ranking": reranking(model_of(args.rerank_recipe), args.gallery, args.top_k, args.rounds),
    }
    for name, values in results.items():
        print(name, json.dumps(values))
    if args.out:
        args.out.write_text(json.dumps(results, indent=2) + "\n")


def model_of(recipe: str) -> VideoLanguageModel:
    config = parse_run(["--recipe", recipe, "--deepspeed_config", "-"])
    torch.manual_seed(0)
    return VideoLanguageModel(replace(config.model, lm_vocab="full")).eval()


@torch.inference_mode()
def captions(model: VideoLanguageModel, clips: int, beams: int, rounds: int) -> dict[str, Any]:
    """Captions that never end by themselves, so that every position is said."""
    model.lm_head.bias[END] = -1e9
    model.lm_head.bias += torch.randn_like(model.lm_head.bias)  # else all words are about as likely
    video = model.encode_video(full_batch(model.config, clips, torch.device("cpu")))
    start, ones = torch.full((clips, 1), START), torch.ones(clips, dtype=torch.int64)

    def run(state: type) -> Callable[[], Any]:
        def once() -> Any:
            generation.IncrementalText = state  # type: ignore[attr-defined]
            return generate(model, video, start, ones, GenerationConfig(beams=beams), "one_pass")

        return once

    cached, whole = run(IncrementalText), run(WholeText)
    same = cached() == whole()
    ratios, seconds = compare(whole, cached, rounds)
    return {
        "tokens": model.config.max_tokens,
        "beams": beams,
        "clips": clips,
        "same captions": same,
        "seconds with the cache": seconds,
        "times as long without": ratios,
    }


@torch.inference_mode()
def reranking(model: VideoLanguageModel, size: int, top_k: int, rounds: int) -> dict[str, Any]:
    config, d = model.config, model.clip.joint_width
    G = sum(config.group_sizes.values())
    L = config.max_tokens
    none = torch.empty(0)
    gallery = Gallery(
        ids=[str(i) for i in range(size)],
        video_tokens_VGd=torch.randn(size, G, d),
        video_valid_VG=torch.rand(size, G) < 0.9,
        video_pooled_Vd=torch.randn(size, d),
        trajectory_labels_VN=none,
        trajectory_classes_VN=none,
        truth_known_V=none,
        twins_V=none,
        text_ids_QL=torch.zeros(size, L, dtype=torch.int64),
        text_tokens_QLd=torch.randn(size, L, d),
        text_pooled_Qd=torch.randn(size, d),
        text_mask_QL=torch.arange(L) < torch.randint(3, L + 1, (size, 1)),
        noun_QL=none,
        noun_labels_QL=none,
        video_of_text_Q=torch.arange(size),
    )
    trained = TrainedModel(model, torch.device("cpu"), 0, {})
    scores = itc_scores(trained, gallery)
    video, text = gallery.video_tokens_VGd[:PAIRS_AT_ONCE], gallery.text_tokens_QLd[:PAIRS_AT_ONCE]
    mask = gallery.text_mask_QL[:PAIRS_AT_ONCE]
    seen = bidirectional_mask(mask, gallery.video_valid_VG[:PAIRS_AT_ONCE])

    def bare() -> None:
        for _ in range(size * top_k // PAIRS_AT_ONCE):
            model.fused(model.pair_pass(video, text, seen, mask))

    ratios, seconds = compare(lambda: rerank(trained, gallery, scores, top_k=top_k, queries="text"), bare, rounds)
    return {
        "queries": size,
        "videos": size,
        "candidates": top_k,
        "seconds of the bare forward": seconds,
        "times as long in all": ratios,
    }


def compare(one: Callable[[], Any], other: Callable[[], Any], rounds: int) -> tuple[dict[str, float], float]:
    """Ratio of the times of one to the other, and the seconds of the other."""
    ratios, seconds = [], []
    for _ in range(rounds):
        times = []
        for run in (one, other):
            begun = time.perf_counter()
            run()
            times.append(time.perf_counter() - begun)
        ratios.append(times[0] / times[1])
        seconds.append(times[1])
    spread = {"median": statistics.median(ratios), "lowest": min(ratios), "highest": max(ratios)}
    return {name: round(value, 2) for name, value in spread.items()}, round(statistics.median(seconds), 2)


if __name__ == "__main__":
    main()
