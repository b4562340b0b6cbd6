"""Training clips that differ from each other in who does what alone."""

import json

import numpy as np
import pytest

from stoa.detections import Detections
from stoa.manifest import read_manifest
from stoa.synthetic import SynthConfig, build_data_set
from stoa.synthetic.scene import sample_scene, sample_story
from stoa.synthetic.siblings import sample_sibling


@pytest.mark.parametrize("pool", ["seen", "held_out", "any"])
def test_a_sibling_has_the_same_objects_and_another_meaning(pool):
    kinds = set()
    for seed in range(200):
        rng = np.random.default_rng(seed)
        story = sample_story(rng, pool)
        other = sample_sibling(rng, story, pool)
        if other is None:
            continue
        looks = [(r.shape, r.colours, r.captioned) for r in story.roles]
        assert looks == [(r.shape, r.colours, r.captioned) for r in other.roles]
        assert other.meaning != story.meaning
        if pool != "any":
            assert all(r.held_out == (pool == "held_out") for r in other.roles if r.captioned)
        for i, role in enumerate(other.roles):
            if role.partner is not None:
                assert other.roles[role.partner].partner == i
        assert len({other.roles[i].action for i in other.clauses}) == len(other.clauses)
        ways = [(r.family, r.backward) for r in story.roles], [(r.family, r.backward) for r in other.roles]
        kinds.add("exchange" if sorted(ways[0]) == sorted(ways[1]) else "other")
        sample_scene(rng, other)  # can be laid out
    assert kinds == {"exchange", "other"}


@pytest.fixture(scope="module")
def families(tmp_path_factory):
    folder = tmp_path_factory.mktemp("families") / "set"
    config = SynthConfig(num_train=16, siblings=4, num_val=2, num_test=2, num_galleries=1, size=32, seconds=1.0)
    build_data_set(config, folder, say=lambda line: None)
    return folder


def test_families_share_layout_and_words(families):
    rows = read_manifest(families / "manifest.jsonl", split="train")
    truth = [json.loads(line) for line in (families / "truth" / "train.jsonl").read_text().splitlines()]
    assert [row.id for row in rows] == [clip["id"] for clip in truth] == [f"train_{i:06d}" for i in range(16)]
    for first in range(0, 16, 4):
        family = truth[first : first + 4]
        assert len({rows[i].captions[0].text for i in range(first, first + 4)}) == 4
        assert len({tuple((o["shape"], o["captioned"]) for o in clip["objects"]) for clip in family}) == 1
        middle = [np.array([o["boxes"][4] for o in clip["objects"]]) for clip in family]
        for other in middle[1:]:  # near the middle of a clip all of them rest where they rest
            assert np.abs(other - middle[0]).max() < 6
        found = [Detections.load(families / rows[i].detections) for i in range(first, first + 4)]
        assert len({f.boxes.tobytes() for f in found}) == 4  # noise of their own
    assert len({row.captions[0].text for row in rows}) == 16


def test_other_splits_have_none(families):
    truth = [json.loads(line) for line in (families / "truth" / "test.jsonl").read_text().splitlines()]
    assert [o["shape"] for o in truth[0]["objects"]] != [o["shape"] for o in truth[1]["objects"]]


@pytest.mark.parametrize(("siblings", "num_train"), [(3, 12), (2, 7), (0, 4)])
def test_sizes_that_do_not_fit_are_named(siblings, num_train):
    with pytest.raises(ValueError, match=f"siblings is {siblings}; pass 1, 2 or 4, of which num_train {num_train}"):
        SynthConfig(siblings=siblings, num_train=num_train)
