"""Match accuracy of a gallery, against the truth files of Moving Shapes."""

import dataclasses
import json

import numpy as np
import pytest
import torch
from factories import tiny_config
from scipy.optimize import linear_sum_assignment
from torch.nn import functional as F

from stoa.data.clips import FileClips
from stoa.data.text import used_token_ids
from stoa.detections import Detections
from stoa.manifest import read_manifest
from stoa.models.config import ObjectConfig
from stoa.models.video_language import VideoLanguageModel
from stoa.tasks import matching
from stoa.tasks.gallery import encode_galleries
from stoa.tasks.matching import evaluate_matching
from stoa.tasks.trained import TrainedModel
from stoa.tasks.videos import VideoReader


@pytest.fixture(scope="module")
def rows(shapes):
    return read_manifest(shapes / "manifest.jsonl", split="test")


@pytest.fixture(scope="module")
def trained(rows) -> TrainedModel:
    torch.manual_seed(0)
    config = tiny_config(num_frames=4, max_tokens=28, objects=ObjectConfig(num_trajectories=8, max_boxes=6))
    used = used_token_ids(caption for row in rows for caption in row.captions)
    model = VideoLanguageModel(config, used_token_ids=used).eval()
    return TrainedModel(model, torch.device("cpu"), 32, {"checkpoint": "none"})


def reader(trained, rows, folder):
    return VideoReader(FileClips(rows, folder), trained.model.config, trained.side)


@pytest.fixture(scope="module")
def gallery(trained, rows, shapes):
    return encode_galleries([trained], reader(trained, rows, shapes))[0]


def test_what_trajectories_show_is_what_the_truth_says(gallery, rows, shapes):
    """A trajectory whose boxes lie on one object has the class of that object in the truth file."""
    truth = [json.loads(line) for line in (shapes / "truth" / "test.jsonl").read_text().splitlines()]
    checked = 0
    for v, (row, clip) in enumerate(zip(rows, truth, strict=True)):
        found = Detections.load(shapes / row.detections)
        assert row.id == clip["id"]
        boxes = np.array([o["boxes"] for o in clip["objects"]])  # objects, frames, 4
        times = np.array(clip["frame_times_seconds"])
        for box, label, true, frame in zip(
            found.boxes, found.labels, found.true_labels, found.frame_index, strict=True
        ):
            assert true >= -1
            if true < 0:
                continue
            t = np.abs(times - found.frame_times_seconds[frame]).argmin()
            off = np.abs(boxes[:, t] - box).max(axis=1)
            nearest = int(off.argmin())
            others = np.delete(off, nearest)
            if off[nearest] < 4 and (others > 8).all():
                assert clip["objects"][nearest]["label"] == true, (row.id, label)
                checked += 1
        labels = gallery.trajectory_labels_VN[v]
        assert set(labels[labels >= 0].tolist()) <= set(found.labels.tolist())
    assert checked > 50


def test_nouns_carry_the_class_they_name(rows, shapes):
    names = json.loads((shapes / "labels.json").read_text())
    for row in rows:
        (caption,) = row.captions
        assert [names[label] for label in caption.noun_labels] == [caption.text[s:e] for s, e in caption.nouns]


def test_a_perfect_match_is_right_and_a_shifted_one_is_not(trained, gallery, monkeypatch):
    """With tokens that are their class's noun a match is wrong only where no trajectory shows the noun."""
    truth = gallery.trajectory_classes_VN
    d = gallery.text_tokens_QLd.shape[-1]
    code = torch.eye(d)
    nouns_QLd = torch.where(gallery.noun_QL[..., None], code[gallery.noun_labels_QL.clamp(min=0)], code[d - 1])
    own_VNd = code[truth.where(truth >= 0, d - 2)]
    tokens = gallery.video_tokens_VGd.clone()
    objects = trained.model.fusion.slot("objects")

    def run(shift: int) -> dict:
        tokens[:, objects] = own_VNd.roll(shift, dims=-1)
        changed = dataclasses.replace(gallery, video_tokens_VGd=tokens.clone(), text_tokens_QLd=nouns_QLd)
        return evaluate_matching(trained, changed, null_token="end")

    right, wrong = run(0), run(1)
    assert "distinct" in right
    for name, result in right.items():
        assert result.accuracy > 80, name
        assert wrong[name].accuracy < result.accuracy
        assert 0 < result.chance < 60
        assert result.matches > 0
    assert matching.MatchAccuracy(1.0, 2.0, 3).to_dict() == {"accuracy": 1.0, "chance": 2.0, "matches": 3}


def test_matches_are_those_of_the_map_to_words(trained, gallery, monkeypatch):
    """Turning the tokens is undone by a map that turns them back."""
    tokens, objects = gallery.video_tokens_VGd.clone(), trained.model.fusion.slot("objects")
    tokens[:, objects] = tokens[:, objects].roll(1, dims=-1)
    turned = dataclasses.replace(gallery, video_tokens_VGd=tokens)
    back = torch.nn.Linear(tokens.shape[-1], tokens.shape[-1], bias=False)
    back.weight.data = torch.eye(tokens.shape[-1]).roll(-1, dims=0)
    before, spoilt = (evaluate_matching(trained, x, null_token="end") for x in (gallery, turned))
    monkeypatch.setitem(trained.model._modules, "word_head", back)
    assert evaluate_matching(trained, turned, null_token="end") == before != spoilt


def test_accuracy_is_that_of_matches_counted_one_by_one(trained, gallery):
    video = gallery.video_of_text_Q
    objects = trained.model.fusion.slot("objects")
    right, judged = {True: 0, False: 0}, {True: 0, False: 0}
    for q, v in enumerate(video.tolist()):
        valid = gallery.trajectory_labels_VN[v] >= 0
        rows = F.normalize(gallery.video_tokens_VGd[v, objects][valid], dim=-1)
        nouns = gallery.noun_QL[q].nonzero().squeeze(1).tolist()
        columns = [*nouns, int(gallery.text_mask_QL[q].sum()) - 1]
        words = F.normalize(gallery.text_tokens_QLd[q, columns], dim=-1)
        probability = ((rows @ words.T) / 0.1).softmax(dim=1).double().numpy()
        for row, column in zip(*linear_sum_assignment(-probability), strict=True):
            if column < len(nouns):
                twins = bool(gallery.twins_V[v])
                judged[twins] += 1
                shown = gallery.trajectory_classes_VN[v, row]
                right[twins] += int(shown == gallery.noun_labels_QL[q, nouns[column]])
    results = evaluate_matching(trained, gallery, null_token="end")
    assert judged[False] > 10
    for name, twins in (("distinct", False), ("twins", True)):
        if judged[twins]:
            assert results[name].matches == judged[twins]
            assert results[name].accuracy == pytest.approx(100 * right[twins] / judged[twins])


def test_what_nobody_knows_is_not_judged(trained, gallery):
    unknown = dataclasses.replace(gallery, truth_known_V=torch.zeros_like(gallery.truth_known_V))
    assert evaluate_matching(trained, unknown, null_token="end") == {}


def test_a_model_without_objects_is_encoded_too(rows, shapes):
    config = tiny_config(num_frames=2, max_tokens=28, objects=ObjectConfig(num_trajectories=0), lm_vocab="full")
    trained = TrainedModel(VideoLanguageModel(config).eval(), torch.device("cpu"), 32, {})
    (gallery,) = encode_galleries([trained], reader(trained, rows, shapes))
    assert gallery.trajectory_labels_VN.shape == (12, 0)
    assert not gallery.truth_known_V.any()
