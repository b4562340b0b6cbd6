"""Retrieval of a model on videos, from checkpoint to report."""

import dataclasses
import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from factories import USED, gray_frames, run_facts, tiny_config, tiny_model, write_video
from hypothesis import given
from hypothesis import strategies as st

from stoa.manifest import Caption, ClipRow, write_manifest
from stoa.models.config import PRESETS
from stoa.models.incremental import IncrementalText
from stoa.models.video_language import VideoFeatures
from stoa.objectives.pairs import Asked, answer
from stoa.tasks.config import EvaluationConfig
from stoa.tasks.evaluation import Abilities, evaluate, open_split
from stoa.tasks.gallery import Gallery, encode_galleries
from stoa.tasks.metrics.ranking import rank_metrics
from stoa.tasks.report import format_report, write_report, write_scores
from stoa.tasks.retrieval import (
    caption_scores,
    dual_softmaxed,
    evaluate_hard_set,
    itc_scores,
    match_scores,
    rerank,
    retrieval_scores,
)
from stoa.tasks.trained import TrainedModel, load_trained, untrained
from stoa.tasks.videos import VideoReader

ABILITIES = Abilities("one_pass", "end", None)

WORDS = ("red", "blue", "green", "white", "dark")


@pytest.fixture
def folder(tmp_path) -> Path:
    """Five videos, one of them broken; one has two captions."""
    for i in range(5):
        write_video(tmp_path / f"{i}.mp4", gray_frames(6 + i)[i:])
    (tmp_path / "3.mp4").write_bytes(b"junk")
    rows = [ClipRow(f"set_0_{i}", f"{i}.mp4", (Caption(f"a {word} one"),), "test") for i, word in enumerate(WORDS)]
    rows[1] = ClipRow("set_0_1", "1.mp4", (Caption("a blue one"), Caption("something blue")), "test")
    write_manifest(tmp_path / "m.jsonl", rows)
    (tmp_path / "hard").mkdir()
    for row in rows:
        object.__setattr__(row, "video", f"../{row.video}")
    write_manifest(tmp_path / "hard" / "kind.jsonl", rows)
    return tmp_path


@pytest.fixture
def trained() -> TrainedModel:
    return TrainedModel(tiny_model().eval(), torch.device("cpu"), 32, {"checkpoint": "none"})


def gallery_of(trained: TrainedModel, folder: Path, batch_size: int = 2) -> Gallery:
    clips = open_split(str(folder / "m.jsonl"), "test")
    videos = VideoReader(clips, trained.model.config, trained.side, batch_size=batch_size)
    (gallery,) = encode_galleries([trained], videos)
    return gallery


def test_a_gallery_holds_what_can_be_read(trained, folder):
    videos = VideoReader(open_split(str(folder / "m.jsonl"), "test"), trained.model.config, trained.side)
    (gallery,) = encode_galleries([trained], videos)
    assert gallery.ids == ["set_0_0", "set_0_1", "set_0_2", "set_0_4"]
    assert gallery.video_of_text_Q.tolist() == [0, 1, 1, 2, 3]
    ((clip, why),) = videos.unreadable
    assert clip == "set_0_3"
    assert "3.mp4" in why


def test_the_batch_size_changes_nothing(trained, folder):
    a, b = gallery_of(trained, folder, 1), gallery_of(trained, folder, 16)
    torch.testing.assert_close(itc_scores(trained, a), itc_scores(trained, b), atol=1e-4, rtol=1e-4)


def test_match_scores_are_those_of_single_pairs(trained, folder):
    gallery = gallery_of(trained, folder)
    texts, videos = torch.meshgrid(torch.arange(5), torch.arange(4), indexing="ij")
    whole = match_scores(trained, gallery, texts, videos, batch_size=3)
    for q in range(5):
        for v in range(4):
            alone = match_scores(trained, gallery, torch.tensor([q]), torch.tensor([v]))
            torch.testing.assert_close(whole[q, v], alone[0], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("queries", ["text", "video"])
def test_reranking_adds_log_probabilities_and_keeps_the_rest_below(trained, folder, queries):
    gallery = gallery_of(trained, folder)
    scores = itc_scores(trained, gallery) if queries == "text" else itc_scores(trained, gallery).T
    found = rerank(trained, gallery, scores, top_k=2, queries=queries)
    for n in range(len(scores)):
        best = scores[n].topk(2).indices
        rest = [m for m in range(scores.shape[1]) if m not in best.tolist()]
        pair = (torch.full((2,), n), best) if queries == "text" else (best, torch.full((2,), n))
        expected = scores[n, best].log_softmax(0) + match_scores(trained, gallery, *pair)
        torch.testing.assert_close(found[n, best].float(), expected, atol=1e-5, rtol=1e-5)
        assert found[n, rest].max() < found[n, best].min()
        assert found[n, rest].argsort().tolist() == scores[n, rest].argsort().tolist()


def test_a_report_from_a_checkpoint(trained, folder, tmp_path):
    """The whole way that `stoa evaluate` goes."""
    step = tmp_path / "run" / "checkpoints" / "step-00000003"
    step.mkdir(parents=True)
    from safetensors.torch import save_file

    save_file({k: v.contiguous() for k, v in trained.model.state_dict().items()}, step / "model.safetensors")
    run = run_facts(3, used_token_ids=USED, commit="abc", architecture=PRESETS["stoa-tiny"])
    (step / "run.json").write_text(json.dumps(run))
    (step / "manifest.json").write_text(json.dumps({"step": 3, "sha256": {"model.safetensors": "f00d"}}))
    loaded = load_trained(step, tiny_config(), torch.device("cpu"))
    config = EvaluationConfig(
        manifest=str(folder / "m.jsonl"), hard=str(folder / "hard"), top_k=3, batch_size=4, dual_softmax=True
    )
    result = evaluate("retrieval", loaded, ABILITIES._replace(losses=["vtc"]), config)
    report = result.report

    gallery = gallery_of(trained, folder)
    fresh = untrained(trained)
    for name, model in (("trained", trained), ("untrained", fresh)):
        scores = retrieval_scores(model, gallery_of(model, folder), top_k=3, dual_softmax=True)
        assert report["retrieval"][name] == scores.metrics(gallery.relevant_QV)
    assert set(report["retrieval"]["trained"]) == {"itc", "itc+vtm", "itc+dsl", "itc+dsl+vtm"}
    assert result.headline == report["retrieval"]["trained"]["itc+vtm"]["text-to-video"].r1
    assert report["chance"]["text-to-video"].r1 == pytest.approx(25.0)
    assert set(report["hard_sets"]) == {"kind"}
    assert report["hard_sets"]["kind"]["trained"]["queries"] == 5
    assert set(report["unreadable"]) == {"set_0_3"}
    assert report["partial"] and report["coverage"].seen == {"clips": 4, "captions": 5}
    assert report["coverage"].whole == {"clips": 5, "captions": 6}
    assert report["protocol"]["videos"] == "4 of 5 readable"
    assert report["protocol"]["measured"] == "partial: 4 of 5 clips (80.0%), 5 of 6 captions (83.3%)"
    assert report["protocol"]["videos of hard sets"] == "4 of 5 readable"
    assert report["protocol"]["boxes"] == "on 0 of 4 clips"
    assert report["protocol"]["hard sets"].endswith(": kind") and len(report["protocol"]["hard sets sha256"]) == 64
    assert report["protocol"]["text"].endswith(" tokens")
    assert report["protocol"]["never trained"] == "the matching head: vtm is that of random weights"
    assert report["protocol"]["weights sha256"] == "f00d"
    assert report["protocol"]["trained at commit"] == "abc"
    write_report(report, tmp_path / "report.json")
    written = json.loads((tmp_path / "report.json").read_text())
    r1 = report["retrieval"]["trained"]["itc"]["text-to-video"].r1
    assert written["retrieval"]["trained"]["itc"]["text-to-video"]["r1"] == r1
    text = format_report(report)
    assert text.startswith("retrieval on test, PARTIAL: 4 of 5 clips (80.0%), 5 of 6 captions (83.3%)\n")
    assert "itc+vtm" in text
    assert "4 of 5 readable" in text
    assert "kind" in text
    write_scores(*result.scores, tmp_path / "scores.npz")
    saved = np.load(tmp_path / "scores.npz")
    np.testing.assert_allclose(saved["text-to-video itc"], itc_scores(trained, gallery).numpy(), atol=1e-5)
    assert saved["ids"].tolist() == gallery.ids and saved["video_of_text"].tolist() == [0, 1, 1, 2, 3]


def test_hard_sets_compare_within_their_gallery(trained, folder):
    """With galleries of one clip everything is right; in one gallery of four, what the scores say."""
    gallery = gallery_of(trained, folder)
    alone = dataclasses.replace(gallery, ids=["a_0", "b_0", "c_0", "d_0"])
    assert evaluate_hard_set(trained, alone, size=1) == {"vtm": 100.0, "plm": 100.0, "itc": 100.0, "queries": 5}
    together = evaluate_hard_set(trained, gallery)
    expected = (itc_scores(trained, gallery).argmax(dim=1) == gallery.video_of_text_Q).double().mean() * 100
    assert together["itc"] == pytest.approx(float(expected))
    with pytest.raises(ValueError, match="none of the 4 galleries has 4 readable videos"):
        evaluate_hard_set(trained, alone)


@pytest.mark.parametrize("match_by", ["ends", "likelihood"])
@pytest.mark.parametrize("form", ["one_pass", "two_stream"])
@torch.inference_mode()
def test_a_hard_set_is_that_of_its_galleries_alone(folder, match_by, form):
    """Galleries of two clips, one of them with three captions; what the match has computed of captions serves PLM."""
    trained = TrainedModel(tiny_model(match_by=match_by, lm_vocab="full").eval(), torch.device("cpu"), 32, {})
    gallery = dataclasses.replace(gallery_of(trained, folder), ids=["a_0", "b_0", "b_1", "a_1"])
    correct = {"vtm": 0.0, "plm": 0.0, "itc": 0.0}
    for q, own in enumerate(gallery.video_of_text_Q.tolist()):
        pair = torch.tensor([[0, 3] if own in (0, 3) else [1, 2]])
        texts = torch.full_like(pair, q)
        scores = {
            "vtm": match_scores(trained, gallery, texts, pair),
            "plm": caption_scores(trained, gallery, texts, pair, form),
            "itc": itc_scores(trained, gallery)[texts, pair],
        }
        for name, score in scores.items():
            correct[name] += rank_metrics(score, pair == own).r1
    found = evaluate_hard_set(trained, gallery, size=2, form=form)
    assert found == {**{name: pytest.approx(total / 5) for name, total in correct.items()}, "queries": 5}


@torch.inference_mode()
def test_what_a_match_says_of_captions_is_what_they_score(folder):
    trained = TrainedModel(tiny_model(match_by="likelihood").eval(), torch.device("cpu"), 32, {})
    gallery = gallery_of(trained, folder)
    texts, videos = torch.meshgrid(torch.arange(5), torch.arange(4), indexing="ij")
    asked = Asked(
        *(gallery.video_tokens_VGd, gallery.video_valid_VG, videos.flatten()),
        *(of[texts.flatten()] for of in (gallery.text_tokens_QLd, gallery.text_ids_QL, gallery.text_mask_QL)),
    )
    scores = caption_scores(trained, gallery, texts, videos, "one_pass").flatten()
    torch.testing.assert_close(answer(trained.model, asked).text_N, scores, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("form", ["one_pass", "two_stream"])
@torch.inference_mode()
def test_caption_scores_are_what_a_growing_text_adds_up(folder, form):
    """Word by word with the cache of generation, as another way to the same sum."""
    model = tiny_model(lm_vocab="full").eval()
    trained = TrainedModel(model, torch.device("cpu"), 32, {})
    gallery = gallery_of(trained, folder)
    texts, videos = torch.tensor([[0, 1], [2, 3]]), torch.tensor([[0, 2], [1, 1]])
    scores = caption_scores(trained, gallery, texts, videos, form, batch_size=3)
    assert scores.shape == (2, 2)
    for score, q, v in zip(scores.flatten(), texts.flatten(), videos.flatten(), strict=True):
        video = VideoFeatures(
            *(part[v][None] for part in (gallery.video_tokens_VGd, gallery.video_valid_VG, gallery.video_pooled_Vd)),
            gallery.trajectory_labels_VN[v][None],
            torch.zeros(1),
        )
        ids = gallery.text_ids_QL[q, : int(gallery.text_mask_QL[q].sum())]
        growing = IncrementalText(model, video, ids[None, :1], torch.tensor([1]), form)
        total = 0.0
        for position in range(len(ids) - 1):
            logits = growing.next_token_logits(ids[position][None], torch.tensor([position]))
            total += float(logits[0].log_softmax(dim=-1)[ids[position + 1]])
        assert float(score) == pytest.approx(total, abs=1e-3)


def test_words_outside_the_vocabulary_do_not_count_in_caption_scores(trained, folder):
    gallery = gallery_of(trained, folder)
    unknown = dataclasses.replace(gallery, text_ids_QL=torch.ones_like(gallery.text_ids_QL))
    zero = torch.zeros(1, dtype=torch.int64)
    assert float(caption_scores(trained, unknown, zero, zero, "one_pass")) == 0
    assert float(caption_scores(trained, gallery, zero, zero, "one_pass")) < 0


def test_an_empty_hard_folder_is_an_error(trained, folder):
    config = EvaluationConfig(manifest=str(folder / "m.jsonl"), hard=str(folder / "typo"))
    with pytest.raises(ValueError, match="--hard .*typo holds no .jsonl manifest"):
        evaluate("retrieval", trained, ABILITIES, config)


def test_a_dual_softmax_adds_the_logarithm_of_a_scores_share_among_the_queries():
    scores = torch.tensor([[2.0, 1.0], [0.5, 3.0], [2.0, 0.0]])
    by_hand = [
        [float(scores[q, v] + math.log(scores[q, v].exp() / scores[:, v].exp().sum())) for v in range(2)]
        for q in range(3)
    ]
    torch.testing.assert_close(dual_softmaxed(scores), torch.tensor(by_hand))


SIGNS = {"negative": -100.0, "positive": 100.0, "mixed": 0.0}
for_every_sign = pytest.mark.parametrize("shift", SIGNS.values(), ids=SIGNS)


def random(seed: int, *shape: int) -> torch.Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@for_every_sign
@given(items=st.integers(2, 12), seed=st.integers(0, 2**31 - 1))
def test_a_perfect_scorer_stays_perfect_with_a_dual_softmax(shift, items, seed):
    """The own pair has cosine 1 and any other at most 0.5, scaled as by a temperature."""
    cosines = random(seed, items, items) * 1.5 - 1
    cosines.fill_diagonal_(1)
    scores = 20 * cosines + shift
    relevant = torch.eye(items, dtype=torch.bool)
    for one_way in (scores, scores.T):
        assert rank_metrics(dual_softmaxed(one_way), relevant).r1 == 100


@for_every_sign
@given(queries=st.integers(1, 8), items=st.integers(1, 8), seed=st.integers(0, 2**31 - 1))
def test_where_zero_is_does_not_matter_to_a_dual_softmax(shift, queries, items, seed):
    scores = random(seed, queries, items) * 10 - 5
    torch.testing.assert_close(dual_softmaxed(scores + shift), dual_softmaxed(scores) + shift)


@for_every_sign
@given(queries=st.integers(1, 8), items=st.integers(1, 8), seed=st.integers(0, 2**31 - 1))
def test_a_prior_that_is_the_same_everywhere_changes_no_order(shift, queries, items, seed):
    """Where all queries score an item alike, each has the same share of it."""
    scores = (random(seed, items) * 10 - 5 + shift).expand(queries, items)
    assert dual_softmaxed(scores).argsort(dim=1).tolist() == scores.argsort(dim=1).tolist()


def test_loader_processes_change_nothing(trained, folder):
    clips = open_split(str(folder / "m.jsonl"), "test")
    found = []
    for workers in (0, 2):
        videos = VideoReader(clips, trained.model.config, trained.side, batch_size=2, num_workers=workers)
        (gallery,) = encode_galleries([trained], videos)
        found.append((gallery, videos.unreadable))
    (one, unread), (two, unread_by_two) = found
    assert one.ids == two.ids and unread == unread_by_two
    torch.testing.assert_close(one.video_tokens_VGd, two.video_tokens_VGd)


def test_an_architecture_that_has_changed_is_refused(tmp_path):
    run = run_facts(3, used_token_ids=USED, commit="abc", architecture={"embed_dim": 7})
    (tmp_path / "run.json").write_text(json.dumps(run))
    with pytest.raises(ValueError, match="was trained when stoa-tiny stood for {'embed_dim': 7}"):
        load_trained(tmp_path, tiny_config(), torch.device("cpu"))
