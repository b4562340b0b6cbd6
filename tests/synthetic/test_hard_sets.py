from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from stoa.manifest import read_manifest
from stoa.synthetic import HARD_KINDS
from stoa.synthetic.actions import Rest
from stoa.synthetic.captions import describe
from stoa.synthetic.hard_sets import sample_gallery
from stoa.synthetic.render import render

Read = Callable[[Path], list[dict[str, Any]]]


def gallery_of(clip: str) -> str:
    return clip.rpartition("_")[0]


@pytest.mark.parametrize("kind", HARD_KINDS)
def test_galleries_have_four_rows_with_the_same_objects(data_set: Path, read_jsonl: Read, kind: str) -> None:
    truth = {row["id"]: row for row in read_jsonl(data_set / "truth" / "hard.jsonl")}
    rows = read_manifest(data_set / "hard" / f"{kind}.jsonl")
    galleries = [list(group) for _, group in itertools.groupby(rows, key=lambda row: gallery_of(row.id))]
    assert len(galleries) == 5
    for gallery in galleries:
        assert len(gallery) == len({row.captions[0].text for row in gallery}) == 4
        objects = [
            {(thing["shape"], *sorted((thing["colour"], thing["end_colour"]))) for thing in truth[row.id]["objects"]}
            for row in gallery
        ]
        assert all(things == objects[0] for things in objects)
        for row in gallery:
            assert truth[row.id]["gallery"] == gallery_of(row.id) and truth[row.id]["kind"] == kind
            assert not truth[row.id]["shared_label"]
            assert (data_set / "hard" / row.video).is_file()
            assert row.detections is not None and (data_set / "hard" / row.detections).is_file()


def test_reversed_rows_show_the_same_frames_in_the_reverse_order(
    data_set: Path, read_jsonl: Read, decode: Callable[[Path], tuple[np.ndarray, list[float]]]
) -> None:
    truth = {row["id"]: row for row in read_jsonl(data_set / "truth" / "hard.jsonl")}
    pairs = [(row["id"], row["reverse_of"]) for row in truth.values() if row["reverse_of"]]
    assert len(pairs) >= 20
    for one, other in pairs:
        assert truth[other]["reverse_of"] == one and gallery_of(one) == gallery_of(other)
        first, second = (
            decode(data_set / "videos" / "hard" / truth[clip]["kind"] / f"{clip}.mp4")[0] for clip in (one, other)
        )
        np.testing.assert_array_equal(first, second[::-1])


@pytest.mark.parametrize("kind", HARD_KINDS)
def test_the_middle_of_a_gallery_is_one_picture(kind: str) -> None:
    for seed in range(8):
        gallery = sample_gallery(np.random.default_rng(seed), kind)
        scenes = [scene for scene in gallery.scenes if all(role.family != "colour" for role in scene.story.roles)]
        middles = [render(scene, num_frames=9, size=48).frames[4].astype(int) for scene in scenes]
        for one, other in itertools.combinations(middles, 2):
            assert np.abs(one - other).max() <= 1


def test_colour_changes_fall_before_and_after_the_middle_alike() -> None:
    ends = []
    for seed in range(400):
        for scene in sample_gallery(np.random.default_rng(seed), "time_reversal").scenes:
            for role, pose in zip(scene.story.roles, scene.poses(np.zeros(1)), strict=True):
                if role.family == "colour" and role.captioned:
                    ends.append(bool(pose.second[0]) != role.backward)
    assert len(ends) > 200 and abs(np.mean(ends) - 0.5) < 0.1


def test_captions_of_an_action_swap_hold_the_same_words() -> None:
    for seed in range(20):
        gallery = sample_gallery(np.random.default_rng(seed), "action_swap")
        texts = [describe(scene.story, gallery.wording).caption.text for scene in gallery.scenes]
        words = {tuple(sorted(text.replace(",", "").replace("an ", "a ").split())) for text in texts}
        assert len(words) == 1 and len(set(texts)) == 4


def test_in_a_role_swap_every_two_objects_are_as_far_apart() -> None:
    def distance(one: Rest, other: Rest) -> float:
        return float(np.hypot(one.x - other.x, one.y - other.y))

    for seed in range(10):
        scene = sample_gallery(np.random.default_rng(seed), "role_swap").scenes[0]
        gaps = [distance(*pair) for pair in itertools.combinations(scene.rests, 2)]
        assert np.ptp(gaps) < 1e-9
